"""What precompute reads: the clips that passed curation and their captions, shuffled by the clips' ids."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from mimir_ray.precompute.shard_plan import PlannedShard
from mimir_ray.records import Clip
from mimir_ray.storage import Table, join

CaptionRow = dict[str, str]
"""A caption that passed curation: `clip_id`, `kind` and `text`."""


def clip_ids(data: str, planned: PlannedShard) -> list[str]:
    """The ids of the clips of a shard that passed curation."""
    return sorted(planned.places(data)["clip_id"].to_pylist())


def ok_clips(data: str, planned: PlannedShard) -> list[Clip]:
    """The clips of a shard that passed curation. Ids are hashes, so the clips of a video are strewn by their order."""
    table, clips = Table(join(data, "clips")), list[Clip]()
    for source, places in _by_source(data, planned):
        rows = table.open(source).take(sorted(places["row"].to_pylist())).select(list(Clip.model_fields))
        clips += [Clip(**row | {"times_s": tuple(row["times_s"])}) for row in rows.to_pylist()]
    return sorted(clips, key=lambda clip: clip.clip_id)


def ok_captions(data: str, planned: PlannedShard) -> list[CaptionRow]:
    """The captions of the clips of a shard that passed curation, several a clip."""
    table, captions = Table(join(data, "captions")), list[CaptionRow]()
    for source, places in _by_source(data, planned):
        rows = table.read(source, ["clip_id", "kind", "text", "status"])
        of_clips = pc.is_in(rows["clip_id"], places["clip_id"].combine_chunks())
        rows = rows.filter(pc.and_(of_clips, pc.equal(rows["status"], "ok")))
        captions += rows.drop_columns(["status"]).to_pylist()
    return sorted(captions, key=lambda row: row["clip_id"])


def _by_source(data: str, planned: PlannedShard) -> Iterator[tuple[str, pa.Table]]:
    """The places of a shard's clips, by the shard of curation that has them."""
    places = planned.places(data)
    for source in planned.sources:
        if (members := places.filter(pc.equal(places["source"], source))).num_rows:
            yield source, members
