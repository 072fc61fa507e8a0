"""Scores outlive their shard: a file that joins a shard, changes or goes makes a new one, with the same other clips."""

from collections.abc import Iterable, Sequence

from mimir_ray.curation.rules import missing
from mimir_ray.curation.tables import commit, rows_of, stage_table
from mimir_ray.storage import predecessors

OF_MORE_THAN_THE_CLIP = ("agreement",)
"""Stages whose scores also depend on captions that came with the file, and those may be what has changed."""


def scored_before(out: str, shards: Iterable[str], stages: Sequence[str]) -> dict[str, list[str]]:
    """For each of all shards the other ones that have scores and may be those that its files were in before."""
    return predecessors(shards, {shard for stage in stages for shard in stage_table(out, stage).shards()})


def inherit(out: str, shard: str, before: Sequence[str], stages: Sequence[str]) -> None:
    """Commit for the clips of a shard the scores that the shards `before` it have of them; failures are left behind."""
    if not len(before):
        return
    clips = set(stage_table(out, "split").read(shard, ["clip_id"])["clip_id"].to_pylist())
    for stage in stages:
        table = stage_table(out, stage)
        if stage in OF_MORE_THAN_THE_CLIP or table.has(shard):
            continue
        rows = [row for other in before if table.has(other) for row in rows_of(table, other)]
        scored = (row for row in rows if row["status"] == "ok" and not missing(row, stage))
        known = {row["clip_id"]: row for row in scored if row["clip_id"] in clips}
        if known:
            commit(table, shard, known.values())
