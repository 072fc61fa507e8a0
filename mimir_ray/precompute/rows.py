"""The rows that are there already: which of them stay, and which shards lack one.

A row stays while its input is wanted, unless it failed and is to be tried again. A caption whose clip, or whose T5
tokens, could not be encoded is not encoded either: its row is carried over from the table before, with the name of that
table before the reason, until the reason there is another one.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from mimir_ray.dataflow import Row
from mimir_ray.precompute.inputs import clip_ids, ok_captions
from mimir_ray.precompute.outcomes import Retry, stays
from mimir_ray.precompute.replacing import TableRun
from mimir_ray.precompute.shard_plan import PlannedShard
from mimir_ray.records import SCHEMAS
from mimir_ray.storage import READERS, Table

logger = logging.getLogger(__name__)

Key = tuple[Any, ...]
In = TypeVar("In")

NEW = TableRun()
_CAPTION = ("clip_id", "kind", "text")
KEYS: dict[str, tuple[str, ...]] = {
    "latents": ("clip_id",),
    "t5_tokens": _CAPTION,
    "answers": _CAPTION,
    "llm_tokens": _CAPTION,
}
"""What a row is for, by table, in the order in which they are made; a clip's key begins those of its captions."""


@dataclass(frozen=True)
class Survey:
    """What there is to do."""

    inputs: dict[str, int]
    """Rows that each table must have in the end; those of shards that cannot be read are missing."""
    pending: dict[str, list[str]]
    """Shards by table that lack a row, hold one too many or one to be tried again, or carry a reason that no longer
    holds."""


def survey(
    data: str,
    tables: Mapping[str, Table],
    shards: Sequence[PlannedShard],
    retry: Retry,
    runs: Mapping[str, TableRun] | None = None,
) -> Survey:
    """Compare the tables with what curation left, shard by shard; only keys, statuses and reasons are read.

    Shards that are foreign to the ``runs`` count as missing.
    """
    committed = {name: set(table.shards()) for name, table in tables.items()}
    for name, run in (runs or {}).items():
        committed[name] -= set(run.foreign)
    inputs: Counter[str] = Counter(dict.fromkeys(tables, 0))
    pending: dict[str, list[str]] = {name: [] for name in tables}
    with ThreadPoolExecutor(READERS) as readers:
        found = readers.map(partial(_look, data=data, tables=tables, committed=committed, retry=retry), shards)
        for planned, (wanted, lacking) in zip(shards, found, strict=True):
            inputs.update(wanted)
            for name in lacking:
                pending[name].append(planned.shard)
    return Survey(dict(inputs), pending)


def _look(
    planned: PlannedShard, data: str, tables: Mapping[str, Table], committed: Mapping[str, set[str]], retry: Retry
) -> tuple[dict[str, int], list[str]]:
    """Number of inputs by table, and the tables that are pending."""
    try:
        clips: Counter[Key] = Counter((clip_id,) for clip_id in clip_ids(data, planned))
        captions: Counter[Key] = Counter(tuple(caption.values()) for caption in ok_captions(data, planned))
    except (OSError, pa.ArrowException):  # the actor that reads them says what is wrong with them
        return {}, list(tables)
    wanted = {name: clips if name == "latents" else captions for name in tables}
    pending: list[str] = []
    upstream, to_carry = "", dict[Key, str]()
    for name, table in tables.items():
        columns = [*KEYS[name], "status", "reason"]
        there = _read(table, planned.shard, columns) if planned.shard in committed[name] else None
        rows = [] if there is None else there.to_pylist()
        carried = {_key(name, row): row["reason"] for row in rows if _is_carried(row, upstream)}
        mended = any(reason != to_carry.get(_within(key, upstream)) for key, reason in carried.items())
        again = any(not stays(row, retry) for row in rows if not _is_carried(row, upstream))
        other_rows = there is None or Counter(_key(name, row) for row in rows) != wanted[name]
        if other_rows or mended or again or (carried and upstream in pending):
            pending.append(name)
        upstream, to_carry = name, {_key(name, row): _prefix(name) + row["reason"] for row in rows if row["reason"]}
    return {name: keys.total() for name, keys in wanted.items()}, pending


def complete(
    table: Table,
    shard: str,
    predecessors: Sequence[str],
    wanted: Sequence[tuple[Key, In]],
    encode: Callable[[Sequence[In]], list[Row]],
    retry: Retry,
    upstream: Table | None = None,
    run: TableRun = NEW,
) -> tuple[int, int]:
    """Commit a shard: its settled rows, and the rest encoded, in the order of the inputs. Returns how many of these
    last were tried, and how many of them are ok.

    Args:
        predecessors: shards that may hold rows of the same inputs.
        upstream: the table that can lack what this one is made of.
    """
    predecessors, retry = run.stays(shard, predecessors, retry)
    there = settled_rows(table, shard, predecessors, [key for key, _ in wanted], retry, upstream)
    fresh = encode([item for key, item in wanted if key not in there])
    left = iter(fresh)
    rows = [there[key] if key in there else next(left) for key, _ in wanted]
    run.open(table)
    table.commit(shard, pa.Table.from_pylist(rows, schema=SCHEMAS[table.name]), run.stamp)
    return len(fresh), sum(row["status"] == "ok" for row in fresh)


def settled_rows(
    table: Table, shard: str, predecessors: Sequence[str], wanted: Sequence[Key], retry: Retry, upstream: Table | None
) -> dict[Key, Row]:
    """The rows of a shard that need no encoding: those that stay, and those that ``upstream`` could not encode."""
    above = "" if upstream is None else upstream.name
    there = kept_rows(table, shard, predecessors, wanted, lambda row: stays(row, retry) and not _is_carried(row, above))
    if upstream is not None:
        there |= carried_rows(upstream, shard, table.name, [key for key in wanted if key not in there])
    return there


def kept_rows(
    table: Table, shard: str, predecessors: Sequence[str], wanted: Iterable[Key], keep: Callable[[Row], bool]
) -> dict[Key, Row]:
    """The wanted rows of a shard or, where it lacks them, of its ``predecessors``, that ``keep`` is for by their status
    and reason."""
    kept: dict[Key, Row] = {}
    missing = set(wanted)
    for holder in (shard, *predecessors):
        if missing and table.has(holder):
            kept |= _rows_of(table, holder, missing, keep)
            missing -= kept.keys()
    return kept


def _rows_of(table: Table, shard: str, wanted: Set[Key], keep: Callable[[Row], bool]) -> dict[Key, Row]:
    """Nothing of a shard that cannot be read."""
    try:
        names = table.read(shard, [*KEYS[table.name], "status", "reason"]).to_pylist()
        places = [place for place, row in enumerate(names) if _key(table.name, row) in wanted and keep(row)]
        rows = table.open(shard).take(places).to_pylist() if places else []
    except (OSError, pa.ArrowException) as error:
        logger.warning("shard %s of %s cannot be read, and its rows are made anew: %s", shard, table.uri, error)
        return {}
    return {_key(table.name, row): row for row in rows}


def carried_rows(upstream: Table, shard: str, name: str, keys: Sequence[Key]) -> dict[Key, Row]:
    """The rows of the table ``name`` for those ``keys`` that ``upstream`` could not encode."""
    rows = upstream.read(shard, [*KEYS[upstream.name], "status", "reason"])
    lost = {_key(upstream.name, row): row for row in rows.filter(pc.not_equal(rows["status"], "ok")).to_pylist()}
    found = {key: row for key in keys if (row := lost.get(_within(key, upstream.name)))}
    return {
        key: dict(zip(KEYS[name], key, strict=True))
        | {"status": row["status"], "reason": _prefix(upstream.name) + row["reason"]}
        for key, row in found.items()
    }


def _read(table: Table, shard: str, columns: Sequence[str]) -> pa.Table | None:
    try:
        return table.read(shard, columns)
    except (OSError, pa.ArrowException) as error:
        logger.warning("shard %s of %s cannot be read and is made anew: %s", shard, table.uri, error)
        return None


def _key(name: str, row: Row) -> Key:
    return tuple(row[column] for column in KEYS[name])


def _within(key: Key, upstream: str) -> Key:
    """The key of the row of ``upstream`` that a row depends on."""
    return key[: len(KEYS[upstream])]


def _is_carried(row: Row, upstream: str) -> bool:
    return bool(upstream) and bool(row["reason"].startswith(_prefix(upstream)))


def _prefix(upstream: str) -> str:
    """How the reason of a row begins that was carried over."""
    return f"{upstream}: "
