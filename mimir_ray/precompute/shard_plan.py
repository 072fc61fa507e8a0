"""How the clips that curation kept are put into shards: several of its shards together, or a part of a large one.

Curation counts files, which hold one clip or a thousand. Its small shards fall together by their buckets, modulo a
power of two that grows with the number of clips; so rows that were encoded are found again when a corpus grows. A part
of a large one is a contiguous run through its films, so that each of them is read through once and not once a part.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mimir_ray.config import UserError
from mimir_ray.dataflow import Row
from mimir_ray.storage import READERS, Table, bucket_of, content_id, exists, join, shard_name


@dataclass(frozen=True)
class PlannedShard:
    """What a shard of precompute holds: the clips of some of curation's shards, or one of about equal parts."""

    shard: str
    sources: tuple[str, ...]
    """Names of curation's shards."""
    part: int
    parts: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "PlannedShard":
        """The inverse of ``row``; what else the row holds is passed over."""
        return cls(row["shard"], tuple(row["sources"]), int(row["part"]), int(row["parts"]))

    def row(self) -> Row:
        """The row that Ray Data carries of it."""
        return asdict(self) | {"sources": list(self.sources)}

    def places(self, data: str) -> pa.Table:
        """Its rows of ``kept_places``."""
        there = kept_places(data, self.sources)
        begin, end = part_borders(there["clip_id"].to_pylist(), self.parts)[self.part : self.part + 2]
        return there.slice(begin, end - begin)


def plan_shards(data: str, clips_per_shard: int) -> list[PlannedShard]:
    """The shards, by name, of the clips that a finished curation kept: about ``clips_per_shard`` each, as far as powers
    of two and curation's shards allow it.

    A shard of curation that needs no company and no splitting keeps its name. Raises UserError where curation is not
    finished, was done by another version, or cannot be read.
    """
    kept = _kept_clips(data)
    buckets = enough_shards(sum(kept.values()), clips_per_shard)
    together: defaultdict[int | str, list[str]] = defaultdict(list)
    for source in kept:
        bucket = bucket_of(source)
        together[source if bucket is None else bucket % buckets].append(source)
    planned = []
    for place, sources in together.items():
        parts = enough_shards(sum(kept[source] for source in sources), 2 * clips_per_shard)
        firsts = _first_clips(data, sources, parts)
        for part in range(parts):
            content = content_id(*sources, f"{part}/{parts}", *firsts[part : part + 2])
            named = shard_name(place, content) if isinstance(place, int) else f"{place}-{content}"
            whole = len(sources) == parts == 1 and place in (bucket_of(sources[0]), sources[0])
            planned.append(PlannedShard(sources[0] if whole else named, tuple(sources), part, parts))
    return sorted(planned, key=lambda one: one.shard)


def enough_shards(clips: int, clips_per_shard: int) -> int:
    """The least power of two of shards that hold so many clips."""
    shards = 1
    while shards * clips_per_shard < clips:
        shards *= 2
    return shards


def kept_places(data: str, sources: Sequence[str]) -> pa.Table:
    """The clips of these shards of curation that passed, by film and time: ``video_id``, ``first_frame``, ``clip_id``,
    and the ``source`` and ``row`` where the clip is found."""
    order, clips, there = ["video_id", "first_frame", "clip_id"], Table(join(data, "clips")), []
    for source in sources:
        rows = clips.read(source, [*order, "status"])
        rows = rows.append_column("source", pa.repeat(source, rows.num_rows))
        rows = rows.append_column("row", pa.array(range(rows.num_rows), pa.int64()))
        there.append(rows.filter(pc.equal(rows["status"], "ok")).drop_columns(["status"]))
    return pa.concat_tables(there).sort_by([(name, "ascending") for name in order])


def part_borders(clip_ids: Sequence[str], parts: int) -> list[int]:
    """Where each part of the clips begins, and where the last one ends.

    Of the clips about an even border the one of the least id, which is a hash, begins a part: so a clip that comes or
    goes leaves most borders at the clips where they were.
    """
    clips = len(clip_ids)
    about = clips // parts // 8
    even = [clips * part // parts for part in range(1, parts)]
    borders = [min(range(border - about, border + about + 1), key=clip_ids.__getitem__) for border in even]
    return [0, *borders, clips]


def _first_clips(data: str, sources: Sequence[str], parts: int) -> list[str]:
    """The clip at each border of the parts, none at the ends. In a shard's name they see to it that a clip is never
    looked for in a shard of the same name that had other borders."""
    if parts == 1:
        return []
    clip_ids = kept_places(data, sources)["clip_id"].to_pylist()
    return ["", *(clip_ids[border] for border in part_borders(clip_ids, parts)[1:-1]), ""]


def _kept_clips(data: str) -> dict[str, int]:
    """Number of clips that passed, by shard of curation."""
    clips, captions = Table(join(data, "clips")), Table(join(data, "captions"))
    if not exists(clips.uri):
        raise UserError(f"{data} was not curated; name what `mimir curate SOURCE --out DATA` wrote")
    for table in (clips, captions):
        manifest = table.manifest()
        if manifest is None:
            raise UserError(f"{table.uri} is not finished; run `mimir curate SOURCE --out {data}` to its end first")
        if manifest.schema_version != table.version:
            raise UserError(
                f"{table.uri} is of version {manifest.schema_version}, and this mimir reads version {table.version}; "
                f"run `mimir curate SOURCE --out {data} --overwrite` first"
            )
    shards = clips.shards()
    if captions.shards() != shards:
        raise UserError(f"the shards of clips and captions under {data} differ; run `mimir curate` again")

    def count(shard: str) -> int:
        try:
            return int(pc.sum(pc.equal(clips.read(shard, ["status"])["status"], "ok")).as_py() or 0)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"cannot read shard {shard} of {clips.uri} ({error}); remove {shard}.parquet there and run "
                "`mimir curate` again, which makes this shard anew"
            ) from error

    with ThreadPoolExecutor(READERS, "clips") as readers:
        return dict(zip(shards, readers.map(count, shards), strict=True))
