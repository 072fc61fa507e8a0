"""`index.jsonl`: what became of every prompt, for a person and for scripts that have no Parquet."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mimir_ray.config import UserError
from mimir_ray.jsonl import json_lines
from mimir_ray.storage import Table, ahead, below, exists, join, parent, read_bytes, write_bytes

INDEX_FILE = "index.jsonl"

_COLUMNS = ("prompt", "seed", "status", "reason", "request_id")

Entry = dict[str, Any]


def write_index(table: Table, lines: Sequence[tuple[int, str]]) -> str:
    """Write the index beside the table, if it is another one, and return its location: a row for each of the ``lines``.

    ``lines`` are the lines of a prompt list in their order: number, and the shard that says what became of it. ``file``
    is relative to the index, and null where there is no video. What an earlier index says of a video that is there is
    not looked up again.
    """
    out = parent(table.uri)[0]
    index = join(out, INDEX_FILE)
    held = read_bytes(index) if exists(index) else b""
    found = _videos(held, index)
    unknown = [name for name in dict.fromkeys(name for _, name in lines) if name not in found]
    for name, rows in zip(unknown, ahead(table.read, unknown), strict=True):
        found[name] = _entry(out, rows.to_pylist()[0])
    rows = (json.dumps({"line": number, **found[name]}, ensure_ascii=False) + "\n" for number, name in lines)
    written = "".join(rows).encode()
    if written != held:
        write_bytes(index, written)
    return index


def forget_index(table: Table) -> None:
    """Empty the index of a table that is empty: what it says is of another one."""
    index = join(parent(table.uri)[0], INDEX_FILE)
    if not table.shards() and exists(index):
        write_bytes(index, b"")


def _entry(out: str, row: Mapping[str, Any]) -> Entry:
    file = row["path"] and below(out, row["path"])
    return {"file": file, **{name: row[name] for name in _COLUMNS}}


def _videos(held: bytes, index: str) -> dict[str, Entry]:
    """The rows of an index that have a video, by request; a failure may have been mended, so it is none of them."""
    found: dict[str, Entry] = {}
    with suppress(UserError):  # changed by hand: what follows is looked up
        for _, row in json_lines(held, index):
            if isinstance(row, dict) and row.keys() >= {"file", *_COLUMNS} and row["status"] == "ok":
                found[row["request_id"]] = {name: row[name] for name in ("file", *_COLUMNS)}
    return found
