"""Forgetting failures, so that what a network or a full disk did to a clip is not held against it for good."""

from collections.abc import Sequence

from mimir_ray.curation.rules import NEEDED, missing
from mimir_ray.curation.tables import commit, outcome_table, rows_of, stage_table
from mimir_ray.dataflow import Row
from mimir_ray.storage import Table, ahead


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
