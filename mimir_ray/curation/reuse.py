"""What an earlier run found out is used again, and its failures are forgotten where that is asked for.

What is known outlives its shard: a file that joins it, changes or goes makes a new one, with the same others. What a
network or a full disk did to a clip is not held against it for good.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from mimir_ray.curation.rules import NEEDED, missing
from mimir_ray.curation.split import Known
from mimir_ray.curation.tables import commit, outcome_table, rows_of, stage_table
from mimir_ray.dataflow import Row
from mimir_ray.storage import Table, ahead, find_predecessors

OF_MORE_THAN_THE_CLIP = ("agreement",)
"""Stages whose scores also depend on captions that came with the file, and those may be what has changed."""


def known_predecessors(out: str, shards: Iterable[str], stages: Sequence[str]) -> dict[str, list[str]]:
    """The other shards, for each of all, that hold something and may be those that its files were in."""
    return find_predecessors(
        shards, {shard for stage in ("split", *stages) for shard in stage_table(out, stage).shards()}
    )


def known_files(out: str, predecessors: Sequence[str]) -> dict[str, Known]:
    """Files that were watched in the shards `predecessors`, as far as these have them, by the ids of their bytes."""
    videos, clips = outcome_table(out, "videos"), stage_table(out, "split")
    known: dict[str, Known] = {}
    for shard in predecessors:
        if videos.has(shard) and clips.has(shard):
            of_file: defaultdict[str, list[Row]] = defaultdict(list)
            for clip in rows_of(clips, shard):
                of_file[clip["video_id"]].append(clip)
            for video in rows_of(videos, shard):
                if video["status"] != "quarantined" and video["rule"] != "duplicate":
                    known[video["video_id"]] = Known(video, of_file[video["video_id"]])
    return known


def known_scores(out: str, stage: str, shards: Iterable[str], clip_ids: Collection[str]) -> dict[str, Row]:
    """The scores that these shards have of clips; failures are left behind."""
    table = stage_table(out, stage)
    rows = [row for shard in shards if table.has(shard) for row in rows_of(table, shard)]
    scored = (row for row in rows if row["status"] == "ok" and not missing(row, stage))
    return {row["clip_id"]: row for row in scored if row["clip_id"] in clip_ids}


def inherit(out: str, shard: str, predecessors: Sequence[str], stages: Sequence[str]) -> None:
    """Commit for the clips of a shard the scores that its `predecessors` have of them."""
    if not len(predecessors):
        return
    clip_ids = set(stage_table(out, "split").read(shard, ["clip_id"])["clip_id"].to_pylist())
    for stage in stages:
        table = stage_table(out, stage)
        if stage in OF_MORE_THAN_THE_CLIP or table.has(shard):
            continue
        if known := known_scores(out, stage, predecessors, clip_ids):
            commit(table, shard, known.values())


def forget_failures(out: str, stages: Sequence[str]) -> None:
    """Make everything that is quarantined under the data root `out` pending again; scores that are there stay.

    A file that could not be read is watched again, and no other; `stages` score again only what they could not, and
    what they left without a number that a rule needs.
    """
    files = [outcome_table(out, "videos"), stage_table(out, "split")]
    outcomes = [outcome_table(out, "clips"), outcome_table(out, "captions")]
    scores = [stage_table(out, name) for name in stages]
    failed = {table: _failed_shards(table) for table in (*files, *outcomes, *scores)}
    for outcome in outcomes:  # first, so that after a kill the next run comes by these shards
        outcome.drop({shard for shards in failed.values() for shard in shards})
    for table in (*scores, *files):
        _forget(table, failed[table])


def _forget(table: Table, shards: Sequence[str]) -> None:
    def one(shard: str) -> None:
        commit(table, shard, [row for row in rows_of(table, shard) if not _failed(table, row)])

    for _ in ahead(one, shards):
        pass


def _failed_shards(table: Table) -> list[str]:
    """The shards that hold something to forget."""
    assert table.schema is not None
    looked_at = ("status", "width_px", "height_px", *NEEDED.get(table.name, ()))
    columns, shards = [name for name in table.schema.names if name in looked_at], table.shards()

    def one(shard: str) -> bool:
        return any(_failed(table, row) for row in table.read(shard, columns).to_pylist())

    return [shard for shard, failed in zip(shards, ahead(one, shards), strict=True) if failed]


def _failed(table: Table, row: Row) -> bool:
    return row["status"] == "quarantined" or (row["status"] == "ok" and bool(missing(row, table.name)))
