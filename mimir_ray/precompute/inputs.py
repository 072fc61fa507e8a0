"""What precompute reads: the clips that passed curation and their captions."""

import pyarrow as pa
import pyarrow.compute as pc

from mimir_ray.config import UserError
from mimir_ray.records import Clip
from mimir_ray.storage import Table, join

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


def _ok(data: str, table: str, shard: str, columns: list[str]) -> pa.Table:
    rows = Table(join(data, table)).read(shard, [*columns, "status"])
    return rows.filter(pc.equal(rows["status"], "ok")).select(columns)
