"""What became of the inputs, as a value and as a table to print."""

from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow.compute as pc
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from mimir_ray.config import Config
from mimir_ray.curation.rules import RULES
from mimir_ray.curation.tables import outcome_table
from mimir_ray.storage import Table


class Loss(Config):
    """An input that was not kept: a file, or a clip of one."""

    path: str
    status: str
    rule: str
    reason: str


class Account(Config):
    """`inputs` = `ok` + all `rejected` + all `quarantined`."""

    inputs: int
    ok: int
    rejected: dict[str, int]
    """By the first rule that they fall short of, in the order of the rules; those on captions come last."""
    quarantined: dict[str, int]
    """By the reason why they could not be processed, most frequent first."""


class CurationSummary(Config):
    """The account of a curation: of the files, and of the clips that those which are ok were cut into."""

    files: Account
    clips: Account
    shards: int
    shards_reused: int
    """Shards that an earlier run had finished."""
    seconds: float
    """Wall time of this run."""

    @property
    def clips_per_s(self) -> float:
        """Clips of this run per second, those of reused shards counted by share."""
        done = self.clips.inputs * (self.shards - self.shards_reused) / self.shards if self.shards else 0.0
        return done / self.seconds if self.seconds else 0.0


def summarise(out: str, shards_reused: int, seconds: float) -> CurationSummary:
    """Count the finished tables under `out`, shard by shard."""
    clips = outcome_table(out, "clips")
    return CurationSummary(
        files=_account(outcome_table(out, "videos"), ["duplicate"]),
        clips=_account(clips, [rule.name for rule in RULES]),
        shards=len(clips.shards()),
        shards_reused=shards_reused,
        seconds=seconds,
    )


def losses(out: str) -> Iterator[Loss]:
    """Every file and every clip that was not kept, with the reason, shard by shard."""
    for name in ("videos", "clips"):
        for rows in outcome_table(out, name).scan(["path", "status", "rule", "reason"]):
            for row in rows.filter(pc.not_equal(rows["status"], "ok")).to_pylist():
                yield Loss(**row)


def render(summary: CurationSummary) -> Group:
    """The summary as a rich table, and a line on the time."""
    table = RichTable(title="Curation", title_justify="left")
    for column in ("", "outcome", "why"):
        table.add_column(column)
    table.add_column("count", justify="right")
    _add(table, "files", "read", summary.files)
    _add(table, "clips", "kept", summary.clips)
    reused = f"; {summary.shards_reused} of {summary.shards} shards were finished before" * bool(summary.shards_reused)
    return Group(table, Text(f"{summary.seconds:.1f} s, {summary.clips_per_s:.0f} clips/s{reused}"))


def _add(table: RichTable, what: str, ok: str, account: Account) -> None:
    table.add_section()
    table.add_row(what, "", "", f"{account.inputs:,}", style="bold")
    table.add_row("", Text(ok, "green"), "", f"{account.ok:,}")
    for rule, count in account.rejected.items():
        table.add_row("", Text("rejected", "yellow"), rule.replace("_", " "), f"{count:,}")
    for reason, count in account.quarantined.items():
        table.add_row("", Text("quarantined", "red"), Text(reason), f"{count:,}")


def _account(table: Table, rules: Sequence[str]) -> Account:
    ok, rejected, quarantined = 0, Counter[str](), Counter[str]()
    for rows in table.scan(["status", "rule", "reason"]):
        for row in rows.group_by(["status", "rule", "reason"]).aggregate([([], "count_all")]).to_pylist():
            if row["status"] == "ok":
                ok += row["count_all"]
            elif row["status"] == "rejected":
                rejected[row["rule"]] += row["count_all"]
            else:
                quarantined[row["reason"]] += row["count_all"]
    return Account(
        inputs=ok + rejected.total() + quarantined.total(),
        ok=ok,
        rejected={rule: rejected[rule] for rule in dict.fromkeys([*rules, *sorted(rejected)]) if rejected[rule]},
        quarantined=dict(quarantined.most_common()),
    )
