"""Which clips take part, and what is said about tables that cannot be used."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from mimir_ray.config import UserError
from mimir_ray.records import SCHEMAS
from mimir_ray.storage import Table
from mimir_ray.training.config import CaptionWeights
from mimir_ray.training.data.samples import join_samples, open_data
from tests.training.tables import KINDS, write_tables

WEIGHTS = CaptionWeights()
SHAPE = (3, 16, 8, 8)


def test_only_clips_with_latents_and_every_token_are_counted(tmp_path: Path) -> None:
    root = write_tables(tmp_path, clips=12, shards=3)
    data = open_data(root, True, WEIGHTS)
    assert data.counts == {f"shard-{shard}": 3 for shard in range(3)}
    assert data.clips == 9
    assert list(data.buckets) == [SHAPE]
    assert set(data.fingerprints) == {"latents", "t5_tokens", "llm_tokens"}


def test_captions_of_a_kind_share_its_weight_and_need_ok_rows() -> None:
    def table(name: str, rows: list[dict[str, object]]) -> pa.Table:
        filled = [{"status": "ok", "reason": ""} | row for row in rows]
        if name == "latents":
            filled = [row | {"shape": [3, 32, 8, 8]} for row in filled]
        return pa.Table.from_pylist(filled, schema=SCHEMAS[name])

    latents = table("latents", [{"clip_id": "x"}, {"clip_id": "y"}, {"clip_id": "z", "status": "rejected"}])
    texts = [("x", "long", "1"), ("x", "short", "2"), ("x", "short", "3"), ("x", "user", "4"), ("y", "user", "5")]
    tokens = [{"clip_id": clip, "kind": kind, "text": text} for clip, kind, text in texts]
    bad = {"status": "quarantined", "reason": "too long"}
    t5, llm = table("t5_tokens", tokens), table("llm_tokens", [*tokens[:3], tokens[3] | bad, tokens[4] | bad])
    weights = CaptionWeights(long=2.0, short=1.0)
    (sample,) = join_samples(latents, t5, llm, weights)
    assert (sample.clip_id, sample.shape, sample.latents_row) == ("x", SHAPE, 0)
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


def curate(root: Path, clips: dict[str, list[str]], texts: dict[str, str] | None = None) -> None:
    """Tables `clips` and `captions` of these clips by shard, with the captions that were encoded or other ``texts``."""
    rows = {
        "clips": lambda clip: [{"clip_id": clip}],
        "captions": lambda clip: [
            {"clip_id": clip, "kind": kind, "text": (texts or {}).get(clip, f"{kind} words")} for kind in KINDS
        ],
    }
    for name, made in rows.items():
        table = Table(str(root / name))
        table.begin(CaptionWeights(), overwrite=True)
        table.drop(table.shards())
        count = 0
        for shard, members in clips.items():
            filled = [row | {"status": "ok", "reason": "", "rule": ""} for clip in members for row in made(clip)]
            table.commit(shard, pa.Table.from_pylist(filled, schema=SCHEMAS[name]))
            count += len(filled)
        table.finish(count)


@pytest.mark.parametrize("old", ["clips", "captions"])
def test_latents_of_frames_as_an_earlier_version_read_them_are_refused(old: str, tmp_path: Path) -> None:
    root = write_tables(tmp_path, clips=12, shards=3)
    latents = Table(str(tmp_path / "latents"))
    curate(tmp_path, {shard: latents.read(shard, ["clip_id"])["clip_id"].to_pylist() for shard in latents.shards()})
    age(tmp_path, "latents", 2)
    with pytest.raises(UserError, match=r"latents under .* are of version 2, .*: run `mimir precompute --overwrite`"):
        open_data(root, True, WEIGHTS)
    age(tmp_path, old, 1)
    remedy = r": run `mimir curate SOURCE --out \S+ --overwrite` and then `mimir precompute --overwrite`"
    with pytest.raises(UserError, match=remedy):
        open_data(root, True, WEIGHTS)


def age(root: Path, name: str, version: int) -> None:
    """Let the manifest of a table say that it is of an earlier version."""
    manifest = root / name / "_manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema_version": version}))


def test_a_data_root_that_was_curated_again_must_be_encoded_again(tmp_path: Path) -> None:
    root = write_tables(tmp_path, clips=12, shards=3)
    latents = Table(str(tmp_path / "latents"))
    encoded = {shard: latents.read(shard, ["clip_id"])["clip_id"].to_pylist() for shard in latents.shards()}
    curate(tmp_path, encoded)
    assert open_data(root, True, WEIGHTS).clips == 9
    again = "curated again since precompute; .* encodes what is new"
    clips = [clip for members in encoded.values() for clip in members]
    curate(tmp_path, {"other": clips[:5], "another": clips[5:]})
    assert open_data(root, True, WEIGHTS).clips == 9, "how curation and precompute cut their shards does not matter"
    curate(tmp_path, encoded | {"shard-1": ["new", *encoded["shard-1"]]})
    with pytest.raises(UserError, match=rf"keeps 13 clips and 12 were encoded: it was {again}"):
        open_data(root, True, WEIGHTS)
    curate(tmp_path, encoded | {"shard-1": ["new", *encoded["shard-1"][1:]]})
    with pytest.raises(UserError, match=rf"the clips that .* keeps are not those that were encoded.*{again}"):
        open_data(root, True, WEIGHTS)
    curate(tmp_path, encoded, texts={encoded["shard-2"][0]: "a better caption"})
    with pytest.raises(UserError, match=rf"the captions that .* keeps are not those that were encoded.*{again}"):
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


def test_clips_of_different_sizes_are_counted_apart(tmp_path: Path) -> None:
    data = open_data(write_tables(tmp_path, clips=24, shapes=[SHAPE, (2, 16, 8, 8)]), True, WEIGHTS)
    assert {shape: sum(counts.values()) for shape, counts in data.buckets.items()} == {SHAPE: 12, (2, 16, 8, 8): 9}
    assert data.counts == {f"shard-{shard}": 7 for shard in range(3)}
    assert data.clips == 21
