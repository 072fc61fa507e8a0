"""What became of the inputs of a table, as a value and as a table to print."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mimir_ray.config import Config
from mimir_ray.storage.table import Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable

MAX_REASONS = 20
"""The reasons that are told apart in print, of each outcome."""


class Account(Config):
    """`inputs` = `ok` + all `rejected` + all `quarantined`."""

    inputs: int
    ok: int
    rejected: dict[str, int]
    """The rows by why they fell short, most frequent first."""
    quarantined: dict[str, int]
    """The rows by why they could not be processed, most frequent first."""


def account(table: Table, rejected_by: str = "reason") -> Account:
    """Count the rows of a table, shard by shard; those rejected by the column `rejected_by`."""
    ok, rejected, quarantined = 0, Counter[str](), Counter[str]()
    columns = list(dict.fromkeys(["status", "reason", rejected_by]))
    for values, rows in table.count(columns).items():
        status, reason, *_ = values
        if status == "ok":
            ok += rows
        elif status == "rejected":
            rejected[values[columns.index(rejected_by)]] += rows
        else:
            quarantined[reason] += rows
    return Account(
        inputs=ok + rejected.total() + quarantined.total(),
        ok=ok,
        rejected=dict(rejected.most_common()),
        quarantined=dict(quarantined.most_common()),
    )


def render_accounts(title: str, accounts: Mapping[str, tuple[Account, str]]) -> "RichTable":
    """A section for each account, by its name, with a word for what is ok."""
    from rich.table import Table as RichTable
    from rich.text import Text

    printed = RichTable(title=title, title_justify="left")
    for column in ("", "outcome", "why"):
        printed.add_column(column)
    printed.add_column("count", justify="right")
    for name, (counts, ok) in accounts.items():
        printed.add_section()
        printed.add_row(name, "", "", f"{counts.inputs:,}", style="bold")
        printed.add_row("", Text(ok, "green"), "", f"{counts.ok:,}")
        for outcome, colour, reasons in (
            ("rejected", "yellow", counts.rejected),
            ("quarantined", "red", counts.quarantined),
        ):
            for reason, count in _first(reasons.items()):
                printed.add_row("", Text(outcome, colour), Text(reason), f"{count:,}")
    return printed


def _first(reasons: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The first reasons; the others as one."""
    listed = list(reasons)
    others = listed[MAX_REASONS:]
    return listed[:MAX_REASONS] + [(f"{len(others):,} other reasons", sum(count for _, count in others))] * bool(others)
