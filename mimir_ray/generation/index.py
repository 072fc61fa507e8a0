"""`index.jsonl`: what became of every prompt, for a person and for scripts that have no Parquet."""

import json
from collections.abc import Sequence

from mimir_ray.storage import Table, join, parent, write_bytes

INDEX_FILE = "index.jsonl"


def write_index(table: Table, first: Sequence[str]) -> str:
    """Write the index beside the table and return its location: a line a row, those of the shards `first` in front.

    ``file`` is relative to the index, and null where there is no video.
    """
    out = parent(table.uri)[0]
    names = dict.fromkeys([*first, *table.shards()])
    lines = []
    for row in (row for name in names for row in table.read(name).to_pylist()):
        kept = {name: row[name] for name in ("prompt", "seed", "status", "reason", "request_id")}
        file = row["path"] and row["path"].removeprefix(f"{out}/")
        lines.append(json.dumps({"file": file, **kept}, ensure_ascii=False) + "\n")
    index = join(out, INDEX_FILE)
    write_bytes(index, "".join(lines).encode())
    return index
