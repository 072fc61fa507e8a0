"""Which clips take part, and what is said about tables that cannot be used."""

from pathlib import Path

import pyarrow as pa
import pytest

from mimir_ray.config import UserError
from mimir_ray.records import SCHEMAS
from mimir_ray.storage import Table
from mimir_ray.training.config import CaptionWeights, TrainingConfig
from mimir_ray.training.tables import join_samples, open_data
from tests.training.tables import write_tables

WEIGHTS = CaptionWeights()


def test_only_clips_with_latents_and_every_token_are_counted(tmp_path: Path) -> None:
    root = write_tables(tmp_path, clips=12, shards=3)
    data = open_data(root, True, WEIGHTS)
    assert data.counts == {f"shard-{shard}": 3 for shard in range(3)}
    assert data.clips == 9
    assert data.latent_shape == (3, 16, 8, 8)
    assert set(data.fingerprints) == {"latents", "t5_tokens", "llm_tokens"}


def test_captions_of_a_kind_share_its_weight_and_need_ok_rows() -> None:
    def table(name: str, rows: list[dict[str, object]]) -> pa.Table:
        filled = [{"status": "ok", "reason": ""} | row for row in rows]
        return pa.Table.from_pylist(filled, schema=SCHEMAS[name])

    latents = table("latents", [{"clip_id": "x"}, {"clip_id": "y"}, {"clip_id": "z", "status": "rejected"}])
    texts = [("x", "long", "1"), ("x", "short", "2"), ("x", "short", "3"), ("x", "user", "4"), ("y", "user", "5")]
    tokens = [{"clip_id": clip, "kind": kind, "text": text} for clip, kind, text in texts]
    bad = {"status": "quarantined", "reason": "too long"}
    t5, llm = table("t5_tokens", tokens), table("llm_tokens", [*tokens[:3], tokens[3] | bad, tokens[4] | bad])
    weights = CaptionWeights(long=2.0, short=1.0)
    (sample,) = join_samples(latents, t5, llm, weights)
    assert (sample.clip_id, sample.latents_row) == ("x", 0)
    assert [(c.weight, c.t5_row, c.llm_row) for c in sample.captions] == [(2.0, 0, 0), (0.5, 1, 1), (0.5, 2, 2)]
    assert [s.clip_id for s in join_samples(latents, t5, None, weights)] == ["x", "y"]
    (only,) = join_samples(latents, t5, None, CaptionWeights(user=0))
    assert [c.llm_row for c in only.captions] == [-1, -1, -1]


def test_without_a_decoder_the_llm_table_is_not_needed(tmp_path: Path) -> None:
    root = write_tables(tmp_path, names=("latents", "t5_tokens"))
    assert open_data(root, False, WEIGHTS).clips == 9
    with pytest.raises(UserError, match=r"llm_tokens does not exist; run `mimir precompute`"):
        open_data(root, True, WEIGHTS)


def test_an_unfinished_table_is_refused(tmp_path: Path) -> None:
    root = write_tables(tmp_path, finish=False)
    with pytest.raises(UserError, match=r"latents has 3 shards but is not finished; run `mimir precompute`"):
        open_data(root, True, WEIGHTS)


def test_a_data_root_that_was_curated_again_must_be_encoded_again(tmp_path: Path) -> None:
    root = write_tables(tmp_path, clips=12, shards=3)
    clips, shards = Table(str(tmp_path / "clips")), Table(str(tmp_path / "latents")).shards()
    kept = Table(str(tmp_path / "latents")).manifest()
    assert kept is not None

    def curate(names: list[str], count: int) -> None:
        clips.begin(CaptionWeights(), overwrite=True)
        clips.drop(clips.shards())
        rows = [{"clip_id": str(index), "status": "ok", "reason": "", "rule": ""} for index in range(count)]
        for place, name in enumerate(names):
            clips.commit(name, pa.Table.from_pylist(rows[place :: len(names)], schema=SCHEMAS["clips"]))
        clips.finish(count)

    curate(shards, kept.inputs)
    assert open_data(root, True, WEIGHTS).clips == 9
    for names, count in ((["other"], kept.inputs), (shards, kept.inputs + 1)):
        curate(names, count)
        with pytest.raises(
            UserError, match=rf"again since precompute: {count} clips are kept now, and {kept.inputs} were"
        ):
            open_data(root, True, WEIGHTS)


def test_a_shard_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    root = write_tables(tmp_path)
    (tmp_path / "t5_tokens" / "shard-1.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"cannot read shard shard-1 of .*t5_tokens.* remove shard-1.parquet"):
        open_data(root, True, WEIGHTS)


def test_captions_without_weight_leave_nothing(tmp_path: Path) -> None:
    root = write_tables(tmp_path)
    with pytest.raises(UserError, match=r"9 clips with latents and none .* of kind user, filename"):
        open_data(root, True, CaptionWeights(long=0, short=0))


def test_clips_of_different_sizes_are_refused(tmp_path: Path) -> None:
    root = write_tables(tmp_path, shards=1)
    table = Table(str(tmp_path / "latents"))
    rows = table.read("shard-0").to_pylist()
    rows[0]["shape"] = [2, 32, 8, 8]
    table.begin(TrainingConfig(steps=1, batch_size=1, learning_rate=1.0))
    table.commit("shard-0", pa.Table.from_pylist(rows, schema=SCHEMAS["latents"]))
    with pytest.raises(UserError, match=r"2 different shapes \(clip000 has 2x32x8x8; clip001 has 3x32x8x8\)"):
        open_data(root, True, WEIGHTS)
