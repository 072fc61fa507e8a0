"""The whole stage on Ray: accounting, continuing, refusing."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from mimir_ray.config import UserError
from mimir_ray.model.config import FuserConfig, ModelConfig
from mimir_ray.precompute import precompute
from mimir_ray.precompute.actors import LatentEncoder, LLMEncoder, T5Encoder
from mimir_ray.precompute.keys import table_keys
from mimir_ray.precompute.pipeline import drop_stale, find_pending
from mimir_ray.records import SCHEMAS
from mimir_ray.storage import Table
from tests.precompute.world import CONFIG, curated, rows_of, tiny_model

pytestmark = pytest.mark.usefixtures("ray_session")
TABLES = ("latents", "t5_tokens", "llm_tokens")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def finished(model: ModelConfig, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A data root whose precompute was killed at its first finished shard, lost another one, and was continued."""
    root = curated(tmp_path_factory.mktemp("finished") / "data")

    class Killed(Exception):
        pass

    def kill(done: int, shards: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        precompute(str(root), model, CONFIG, progress=kill)
    t5_tokens = Table(str(root / "t5_tokens"))
    t5_tokens.drop(t5_tokens.shards()[:1])  # a kill can leave any set of whole shards
    seen: list[tuple[int, int]] = []
    summary = precompute(str(root), model, CONFIG, progress=lambda *done: seen.append(done))
    assert 0 < sum(summary.rows_encoded.values()) < 9 + 18 + 18
    assert seen[-1] == (3, 3)
    return root


def test_a_killed_run_ends_with_the_rows_of_an_uninterrupted_loop(
    finished: Path, model: ModelConfig, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(finished, data, ignore=shutil.ignore_patterns("videos", *TABLES))
    for encoder_class in (LatentEncoder, T5Encoder, LLMEncoder):
        encoder = encoder_class(str(data), model, CONFIG)
        for shard in ("shard-0", "shard-1", "shard-2"):
            encoder({"shard": shard, encoder.table.name: True})
        assert rows_of(finished, encoder.table.name) == rows_of(data, encoder.table.name)


def test_every_clip_and_caption_is_accounted_for(finished: Path, model: ModelConfig) -> None:
    summary = precompute(str(finished), model, CONFIG)
    assert summary.clips == 9  # 3 shards of 3; the 3 that curation rejected are no inputs
    for name, inputs, lost in (("latents", 9, 1), ("t5_tokens", 18, 2), ("llm_tokens", 18, 2)):
        manifest = summary.tables[name]
        assert (manifest.inputs, manifest.ok, manifest.rejected, manifest.quarantined) == (
            inputs,
            inputs - lost,
            0,
            lost,
        )
        rows = rows_of(finished, name)
        assert len(rows) == inputs
        assert {row["clip_id"] for row in rows if row["status"] != "ok"} == {"clip-0-1"}
    assert {tuple(row["shape"]) for row in rows_of(finished, "latents") if row["status"] == "ok"} == {(3, 32, 8, 8)}
    assert {len(row["answers"]) for row in rows_of(finished, "llm_tokens") if row["status"] == "ok"} == {2}


def test_a_broken_clip_is_quarantined_with_a_reason_that_its_captions_carry(finished: Path) -> None:
    (reason,) = {row["reason"] for row in rows_of(finished, "latents") if row["status"] == "quarantined"}
    assert reason
    assert "Error" not in reason  # words for a person
    assert {row["reason"] for row in rows_of(finished, "t5_tokens")} == {"", f"latents: {reason}"}
    assert {row["reason"] for row in rows_of(finished, "llm_tokens")} == {"", f"t5_tokens: latents: {reason}"}


def test_a_finished_stage_does_nothing(finished: Path, model: ModelConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("*/*.parquet")}
    summary = precompute(str(finished), model, CONFIG)
    assert summary.rows_encoded == dict.fromkeys(TABLES, 0)
    assert {path: path.stat().st_mtime_ns for path in finished.glob("*/*.parquet")} == before


def test_other_answers_leave_latents_and_t5_tokens_alone(finished: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(finished, data, ignore=shutil.ignore_patterns("videos"))
    config = CONFIG.model_copy(update={"answers": 1})
    with pytest.raises(UserError, match=r"answers was 2 and is now 1.*--overwrite"):
        precompute(str(data), model, config)
    summary = precompute(str(data), model, config, overwrite=True)
    assert summary.rows_encoded == {"latents": 0, "t5_tokens": 0, "llm_tokens": 18}
    firsts = [row["answers"][:1] for row in rows_of(finished, "llm_tokens") if row["status"] == "ok"]
    assert [row["answers"] for row in rows_of(data, "llm_tokens") if row["status"] == "ok"] == firsts


def test_rows_that_were_carried_over_are_encoded_when_their_clip_is_mended(finished: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(finished, data, ignore=shutil.ignore_patterns("videos"))
    tables = {name: Table(str(data / name)) for name in TABLES}
    shards = ["shard-0", "shard-1", "shard-2"]
    tables["latents"].drop(["shard-0", "shard-1"])  # only shard-0 had a broken clip
    assert find_pending(tables, shards) == {
        "latents": ["shard-0", "shard-1"],
        "t5_tokens": ["shard-0"],
        "llm_tokens": ["shard-0"],
    }


def test_shards_that_curation_judged_anew_are_encoded_anew(finished: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(finished, data, ignore=shutil.ignore_patterns("videos"))
    tables = {name: Table(str(data / name)) for name in TABLES}
    shards = ["shard-0", "shard-1", "shard-2"]
    drop_stale(str(data), tables, shards)
    assert find_pending(tables, shards) == {name: [] for name in TABLES}
    clips, captions = Table(str(data / "clips")), Table(str(data / "captions"))
    rows = clips.read("shard-1").to_pylist()
    rows[-1] |= {"status": "ok", "reason": "", "rule": ""}  # what was rejected is kept now
    clips.commit("shard-1", pa.Table.from_pylist(rows, schema=SCHEMAS["clips"]))
    texts = captions.read("shard-2").to_pylist()
    texts[0]["text"] = "another text"
    captions.commit("shard-2", pa.Table.from_pylist(texts, schema=SCHEMAS["captions"]))
    drop_stale(str(data), tables, shards)
    pending = find_pending(tables, shards)
    assert pending["latents"] == ["shard-1"]
    assert "shard-2" in pending["t5_tokens"]
    assert "shard-2" in pending["llm_tokens"]
    assert "shard-0" not in set().union(*pending.values())


def test_a_base_without_llm_has_no_llm_tokens(model: ModelConfig) -> None:
    base = ModelConfig(base=model.base, fuser=FuserConfig.baseline())
    keys = table_keys(base, CONFIG)
    assert list(keys) == ["latents", "t5_tokens"]
    assert keys == {name: key for name, key in table_keys(model, CONFIG).items() if name != "llm_tokens"}


def test_a_moved_checkpoint_is_the_same_and_changed_weights_are_not(model: ModelConfig, tmp_path: Path) -> None:
    shutil.copytree(model.base, tmp_path / "base")
    moved = model.model_copy(update={"base": str(tmp_path / "base")})
    assert table_keys(moved, CONFIG) == table_keys(model, CONFIG)
    weights = tmp_path / "base" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    changed = {name for name, key in table_keys(moved, CONFIG).items() if key != table_keys(model, CONFIG)[name]}
    assert changed == {"latents"}


def test_what_cannot_run_is_refused_before_anything_starts(finished: Path, model: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `mimir curate"):
        precompute(str(tmp_path / "nothing"), model, CONFIG)
    with pytest.raises(UserError, match="num_frames=13"):
        precompute(str(finished), model, CONFIG.model_copy(update={"num_frames": 13}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no vae/config\.json"):
        precompute(str(finished), model.model_copy(update={"base": str(tmp_path / "empty")}), CONFIG)


def test_a_shard_that_cannot_be_encoded_is_named_and_the_others_are_kept(
    finished: Path, model: ModelConfig, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(finished, data, ignore=shutil.ignore_patterns("videos", "llm_tokens"))
    (data / "captions" / "shard-1.parquet").write_bytes(b"not parquet")
    with pytest.raises(RuntimeError, match=r"llm_tokens: shard-1 \(1 in all\).*run again"):
        precompute(str(data), model, CONFIG)
    assert Table(str(data / "llm_tokens")).shards() == ["shard-0", "shard-2"]
