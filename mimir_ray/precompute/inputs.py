"""What precompute reads: the clips that passed curation, their captions, and what an earlier table could not encode."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mimir_ray.config import UserError
from mimir_ray.records import Clip
from mimir_ray.storage import Table, join

Key = tuple[Any, ...]
Caption = dict[str, str]


def curated_shards(data: str) -> list[str]:
    """Shards of a finished curation. Raises UserError where there is none."""
    clips, captions = Table(join(data, "clips")), Table(join(data, "captions"))
    for table in (clips, captions):
        if table.manifest() is None:
            raise UserError(f"{table.uri} is not finished; run `mimir curate SOURCE --out {data}` to its end first")
    shards = clips.shards()
    if captions.shards() != shards:
        raise UserError(f"the shards of clips and captions under {data} differ; run `mimir curate` again")
    return shards


def count_inputs(data: str, shards: list[str]) -> dict[str, int]:
    """Inputs of each table, counted from what curation wrote, a shard at a time."""
    clips = sum(len(ok_clips(data, shard)) for shard in shards)
    captions = sum(len(ok_captions(data, shard)) for shard in shards)
    return {"latents": clips, "t5_tokens": captions, "llm_tokens": captions}


def ok_clips(data: str, shard: str) -> list[Clip]:
    """The clips of a shard that passed curation."""
    columns = list(Clip.model_fields)
    return [Clip(**row) for row in _ok(data, "clips", shard, columns).to_pylist()]


def ok_captions(data: str, shard: str) -> list[Caption]:
    """The captions (clip_id, kind, text) of the clips of a shard that passed curation, several a clip."""
    captions = _ok(data, "captions", shard, ["clip_id", "kind", "text"])
    clips = _ok(data, "clips", shard, ["clip_id"])
    rows: list[Caption] = captions.filter(pc.is_in(captions["clip_id"], clips["clip_id"].combine_chunks())).to_pylist()
    return rows


def not_ok(table: Table, shard: str, key: Sequence[str]) -> dict[Key, dict[str, str]]:
    """Status and reason, by key, of the rows that ``table`` could not encode; the reason says which table that was."""
    rows = table.read(shard, [*key, "status", "reason"])
    return {
        tuple(row[name] for name in key): {"status": row["status"], "reason": carried_prefix(table) + row["reason"]}
        for row in rows.filter(pc.not_equal(rows["status"], "ok")).to_pylist()
    }


def carried_prefix(table: Table) -> str:
    """How the reason of a row begins that was carried over from ``table``."""
    return f"{table.name}: "


def has_carried(table: Table, shard: str, upstream: Table) -> bool:
    """Whether a committed shard holds rows carried over from ``upstream``."""
    reasons = table.read(shard, ["reason"])["reason"]
    return bool(pc.any(pc.starts_with(reasons, carried_prefix(upstream))).as_py())


def _ok(data: str, table: str, shard: str, columns: list[str]) -> pa.Table:
    rows = Table(join(data, table)).read(shard, [*columns, "status"])
    return rows.filter(pc.equal(rows["status"], "ok")).select(columns)
