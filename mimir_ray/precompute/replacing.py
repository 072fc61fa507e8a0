"""Tables that another configuration made are replaced shard by shard, each when the rows for it are there.

Nothing is touched before: neither by a model that cannot be loaded nor by rows that cannot be read. Of a run that was
stopped some shards are new and the others what they were, marked with what made them. The same command goes on with the
others, and the command of before takes back those that are new.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

from mimir_ray.config import Config
from mimir_ray.precompute.outcomes import Retry
from mimir_ray.storage import Table

logger = logging.getLogger(__name__)


class TableRun(Config):
    """What a run has found a table to be; it travels with each shard to where that is committed."""

    stamp: str = ""
    """What its shards are marked with."""
    document: str = ""
    """What the table is to say of itself from the first commit on, as JSON, where it is another configuration's now."""
    foreign: tuple[str, ...] = ()
    """Shards of another configuration."""

    @classmethod
    def of(cls, facts: Mapping[str, Any], table: str) -> Self:
        """What came with a shard. Nothing is foreign where nothing came."""
        return cls.model_validate_json(facts.get(f"{table}_run", "{}"))

    def facts(self, table: str, holders: Sequence[str]) -> dict[str, str]:
        """What goes with a shard whose rows may be in the shards ``holders``."""
        foreign = tuple(holder for holder in holders if holder in self.foreign)
        return {f"{table}_run": self.model_copy(update={"foreign": foreign}).model_dump_json()}

    def stays(self, shard: str, predecessors: Sequence[str], retry: Retry) -> tuple[list[str], Retry]:
        """The predecessors whose rows may stay, and which rows of the shard do."""
        if shard in self.foreign:
            return [], "everything"
        return [other for other in predecessors if other not in self.foreign], retry

    def left(self, table: Table, key: Config) -> Self:
        """The same with the shards that are still foreign."""
        return self.model_copy(update={"foreign": tuple(sorted(table.foreign(key)))}) if self.foreign else self

    def open(self, table: Table) -> None:
        """Say of the table that its shards are replaced by this run's; any number of processes may."""
        if self.document:
            table.replace(json.loads(self.document))


def open_table(table: Table, key: Config, overwrite: bool) -> TableRun:
    """Open a table for a run. Another configuration's is left as it is until its first shard is replaced.

    Raises UserError for a table of another configuration, unless ``overwrite`` says that it may be replaced.
    """
    foreign, document = table.foreign(key), ""
    if overwrite and table.shards() and not table.is_of(key):
        document = json.dumps(table.document(key, replacing=True))
    else:
        table.begin(key, overwrite)
    if foreign:
        logger.warning(
            "%s: %d of its %d shards are of another configuration; each is replaced when its rows are there",
            *(table.uri, len(foreign), len(table.shards())),
        )
    return TableRun(stamp=table.stamp(key), document=document, foreign=tuple(sorted(foreign)))
