"""What precompute reads: the clips that passed curation and their captions, shuffled by the clips' ids."""

import pyarrow as pa
import pyarrow.compute as pc

from mimir_ray.precompute.cut import Cut
from mimir_ray.records import Clip
from mimir_ray.storage import Table, join, located

Caption = dict[str, str]


def ok_clips(data: str, cut: Cut) -> list[Clip]:
    """The clips of a shard that passed curation. Ids are hashes, so the clips of a video are strewn by their order."""
    columns = list(Clip.model_fields)
    rows = [row for source in cut.sources for row in _ok(data, "clips", source, columns).to_pylist()]
    clips = (Clip(**row | {"path": located(data, row["path"])}) for row in rows if cut.holds(row["clip_id"]))
    return sorted(clips, key=lambda clip: clip.clip_id)


def ok_captions(data: str, cut: Cut) -> list[Caption]:
    """The captions (clip_id, kind, text) of the clips of a shard that passed curation, several a clip."""
    rows: list[Caption] = []
    for source in cut.sources:
        captions = _ok(data, "captions", source, ["clip_id", "kind", "text"])
        clips = _ok(data, "clips", source, ["clip_id"])
        rows += captions.filter(pc.is_in(captions["clip_id"], clips["clip_id"].combine_chunks())).to_pylist()
    return sorted((row for row in rows if cut.holds(row["clip_id"])), key=lambda row: row["clip_id"])


def _ok(data: str, table: str, shard: str, columns: list[str]) -> pa.Table:
    rows = Table(join(data, table)).read(shard, [*columns, "status"])
    return rows.filter(pc.equal(rows["status"], "ok")).select(columns)
