"""Counting what became of a table's inputs, and printing it."""

from io import StringIO
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from mimir_ray.model.config import LanguageConfig
from mimir_ray.records import SCHEMAS
from mimir_ray.storage import Table, account, render_accounts
from mimir_ray.storage.accounts import MAX_REASONS


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Two shards of captions: 3 ok, 2 rejected by two rules, 31 quarantined for 30 reasons."""
    made = Table(str(tmp_path / "captions"))
    made.begin(LanguageConfig())
    rows = [("ok", "", None)] * 3
    rows += [("rejected", "12 words", "too_long"), ("rejected", "13 words", "too_long")]
    rows += [("quarantined", f"reason {index}", None) for index in (*range(30), 7)]
    columns = [
        {"clip_id": f"clip-{index}", "status": status, "reason": reason, "rule": rule}
        for index, (status, reason, rule) in enumerate(rows)
    ]
    for shard in (0, 1):
        made.commit(f"shard-{shard}", pa.Table.from_pylist(columns[shard::2], schema=SCHEMAS["captions"]))
    return made


def test_every_input_is_counted_once(table: Table) -> None:
    counts = account(table)
    assert (counts.inputs, counts.ok) == (36, 3)
    assert counts.rejected == {"12 words": 1, "13 words": 1}
    assert next(iter(counts.quarantined.items())) == ("reason 7", 2)
    assert sum(counts.quarantined.values()) == 31
    assert account(table, "rule").rejected == {"too_long": 2}


def test_what_is_printed_adds_up(table: Table) -> None:
    console = Console(width=120, record=True, file=StringIO())
    console.print(render_accounts("Captions", {"captions": (account(table, "rule"), "kept")}))
    said = console.export_text()
    assert said.startswith("Captions")
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in said.splitlines() if "│" in line]
    counts = {(outcome, why): int(count) for _, outcome, why, count in cells}
    assert counts.pop(("", "")) == 36 == sum(counts.values())
    assert counts["kept", ""] == 3
    assert counts["rejected", "too_long"] == 2
    assert counts["quarantined", "10 other reasons"] == 10
    assert len([why for outcome, why in counts if outcome == "quarantined"]) == MAX_REASONS + 1
