"""Forgetting failures, so that what a network or a full disk did to a clip is not held against it for good."""

from collections.abc import Sequence

import pyarrow.compute as pc

from mimir_ray.curation.tables import SCORES, outcome_table, stage_table
from mimir_ray.storage import Table


def forget_failures(out: str, stages: Sequence[str]) -> None:
    """Make everything that is quarantined under the data root `out` pending again; scores that are there stay.

    A file that could not be read or cut is split again with its shard; `stages` score again only what they could not.
    """
    videos, split = outcome_table(out, "videos"), stage_table(out, "split")
    scores = {name: stage_table(out, name) for name in stages}
    unread = {shard for table in (videos, split) for shard in _failed_shards(table)}
    unscored = {name: _failed_shards(table) for name, table in scores.items()}
    for outcome in ("clips", "captions"):  # first, so that after a kill the next run comes by these shards
        outcome_table(out, outcome).drop(unread.union(*unscored.values()))
    for name, shards in unscored.items():
        for shard in shards:
            rows = scores[name].read(shard)
            scores[name].commit(shard, rows.filter(pc.not_equal(rows["status"], "quarantined")), SCORES[name])
    split.drop(unread)
    videos.drop(unread)


def _failed_shards(table: Table) -> list[str]:
    return [
        shard
        for shard in table.shards()
        if pc.any(pc.equal(table.read(shard, ["status"])["status"], "quarantined")).as_py()
    ]
