"""The whole stage on Ray: accounting, continuing, refusing."""

import shutil
from pathlib import Path

import pytest

from mimir_ray.config import UserError
from mimir_ray.model.config import FuserConfig, ModelConfig
from mimir_ray.precompute import PrecomputeSummary, Progress, precompute
from mimir_ray.storage import Table
from tests.precompute.world import CONFIG, commit, curated, rows_of, tiny_model

pytestmark = pytest.mark.usefixtures("ray_session")
TABLES = ("latents", "t5_tokens", "llm_tokens")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def finished(model: ModelConfig, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A data root whose precompute ran without interruption."""
    root = curated(tmp_path_factory.mktemp("uninterrupted") / "data")
    precompute(str(root), model, CONFIG)
    return root


def copy_of_curated(finished: Path, target: Path) -> Path:
    """The same clips (their paths are those of the original), without what precompute wrote."""
    shutil.copytree(finished, target, ignore=shutil.ignore_patterns("videos", *TABLES))
    return target


def test_every_clip_and_caption_is_accounted_for(finished: Path, model: ModelConfig) -> None:
    summary = precompute(str(finished), model, CONFIG)
    assert summary.clips == 9  # 3 shards of 3; the 3 that curation rejected are no inputs
    for name, inputs, lost in (("latents", 9, 1), ("t5_tokens", 18, 2), ("llm_tokens", 18, 2)):
        manifest = summary.tables[name]
        assert (manifest.inputs, manifest.ok, manifest.rejected, manifest.quarantined) == (inputs, inputs - lost, 0, lost)
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


def test_a_killed_run_continues_to_the_same_rows(finished: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = copy_of_curated(finished, tmp_path / "data")

    class Killed(Exception):
        pass

    def kill(progress: Progress) -> None:
        raise Killed

    with pytest.raises(Killed):
        precompute(str(data), model, CONFIG, on_progress=kill)
    for shard in Table(str(data / "t5_tokens")).shards()[:1]:  # a kill can leave any set of whole shards
        Table(str(data / "t5_tokens")).drop([shard])
    seen: list[Progress] = []
    summary = precompute(str(data), model, CONFIG, on_progress=seen.append)
    assert 0 < sum(summary.rows_encoded.values()) < 9 + 18 + 18
    assert seen[-1].shards_done == seen[-1].shards <= 3
    for name in TABLES:
        assert rows_of(data, name) == rows_of(finished, name)
        assert counts(summary, name) == counts(precompute(str(finished), model, CONFIG), name)


def test_other_answers_leave_latents_and_t5_tokens_alone(
    finished: Path, model: ModelConfig, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(finished, data, ignore=shutil.ignore_patterns("videos"))
    config = CONFIG.model_copy(update={"answers": 1})
    with pytest.raises(UserError, match=r"answers was 2 and is now 1.*--overwrite"):
        precompute(str(data), model, config)
    summary = precompute(str(data), model, config, overwrite=True)
    assert summary.rows_encoded == {"latents": 0, "t5_tokens": 0, "llm_tokens": 18}
    firsts = [row["answers"][:1] for row in rows_of(finished, "llm_tokens") if row["status"] == "ok"]
    assert [row["answers"] for row in rows_of(data, "llm_tokens") if row["status"] == "ok"] == firsts


def test_a_mended_clip_reaches_every_table(finished: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(finished, data)
    rows = {shard: Table(str(data / "clips")).read(shard).to_pylist() for shard in Table(str(data / "clips")).shards()}
    for row in rows["shard-0"]:
        if row["clip_id"] == "clip-0-1":
            row["path"] = str(finished / "videos" / "clip-0-0.mp4")
    shutil.rmtree(data / "clips")
    commit(data, "clips", rows)
    Table(str(data / "latents")).drop(["shard-0"])
    summary = precompute(str(data), model, CONFIG)
    assert summary.rows_encoded == {"latents": 3, "t5_tokens": 6, "llm_tokens": 6}
    assert [summary.tables[name].quarantined for name in TABLES] == [0, 0, 0]


def test_a_base_without_llm_has_no_llm_tokens(finished: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = copy_of_curated(finished, tmp_path / "data")
    base = ModelConfig(base=model.base, fuser=FuserConfig.baseline())
    summary = precompute(str(data), base, CONFIG)
    assert list(summary.tables) == ["latents", "t5_tokens"]
    assert not (data / "llm_tokens").exists()
    assert rows_of(data, "t5_tokens") == rows_of(finished, "t5_tokens")


def test_what_cannot_run_is_refused_before_anything_starts(
    finished: Path, model: ModelConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="run `mimir curate"):
        precompute(str(tmp_path / "nothing"), model, CONFIG)
    with pytest.raises(UserError, match="num_frames=13"):
        precompute(str(finished), model, CONFIG.model_copy(update={"num_frames": 13}))
    with pytest.raises(UserError, match="no vae/config.json"):
        (tmp_path / "empty").mkdir()
        precompute(str(finished), model.model_copy(update={"base": str(tmp_path / "empty")}), CONFIG)


def test_a_shard_that_cannot_be_encoded_is_named_and_the_others_are_kept(
    finished: Path, model: ModelConfig, tmp_path: Path
) -> None:
    data = copy_of_curated(finished, tmp_path / "data")
    (data / "clips" / "shard-1.parquet").write_bytes(b"not parquet")
    with pytest.raises(RuntimeError, match=r"latents: shard-1 \(1 in all\).*run again"):
        precompute(str(data), model, CONFIG)
    assert Table(str(data / "llm_tokens")).shards() == ["shard-0", "shard-2"]


def counts(summary: PrecomputeSummary, name: str) -> tuple[int, int, int, int, dict[str, int]]:
    manifest = summary.tables[name]
    return manifest.inputs, manifest.ok, manifest.rejected, manifest.quarantined, manifest.reasons
