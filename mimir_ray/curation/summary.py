"""What became of the inputs, as a value and as a table to print."""

from collections import Counter
from collections.abc import Iterator

import pyarrow.compute as pc
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from mimir_ray.config import Config
from mimir_ray.storage import Table


class Loss(Config):
    """An input that was not kept."""

    path: str
    status: str
    rule: str
    reason: str


class CurationSummary(Config):
    """The account of a curation: `inputs` = `kept` + all `rejected` + all `quarantined`."""

    inputs: int
    kept: int
    rejected: dict[str, int]
    """Clips by the first rule that they fall short of, in the order of the rules."""
    quarantined: dict[str, int]
    """Files by the reason why they could not be processed, most frequent first."""
    shards: int
    shards_reused: int
    """Shards that an earlier run had finished."""
    seconds: float
    """Wall time of this run."""

    @property
    def clips_per_s(self) -> float:
        """Inputs of this run per second, those of reused shards counted by share."""
        done = self.inputs * (self.shards - self.shards_reused) / self.shards if self.shards else 0.0
        return done / self.seconds if self.seconds else 0.0


RULES = ("frames", "duration", "aspect", "motion", "black_area", "brightness", "black_frame_rate")


def summarise(clips: Table, shards_reused: int, seconds: float) -> CurationSummary:
    """Count a finished `clips` table, shard by shard."""
    kept, rejected, quarantined = 0, Counter[str](), Counter[str]()
    shards = clips.shards()
    for rows in clips.scan(["status", "rule", "reason"]):
        for row in rows.group_by(["status", "rule", "reason"]).aggregate([([], "count_all")]).to_pylist():
            if row["status"] == "ok":
                kept += row["count_all"]
            elif row["status"] == "rejected":
                rejected[row["rule"]] += row["count_all"]
            else:
                quarantined[row["reason"]] += row["count_all"]
    return CurationSummary(
        inputs=kept + rejected.total() + quarantined.total(),
        kept=kept,
        rejected={rule: rejected[rule] for rule in RULES if rejected[rule]},
        quarantined=dict(quarantined.most_common()),
        shards=len(shards),
        shards_reused=shards_reused,
        seconds=seconds,
    )


def losses(clips: Table) -> Iterator[Loss]:
    """Every input that was not kept, with the reason, shard by shard."""
    for rows in clips.scan(["path", "status", "rule", "reason"]):
        for row in rows.filter(pc.not_equal(rows["status"], "ok")).to_pylist():
            yield Loss(**row)


def render(summary: CurationSummary) -> Group:
    """The summary as a rich table, and a line on the time."""
    table = RichTable(title="Curation", title_justify="left", show_footer=True)
    table.add_column("outcome", footer="inputs")
    table.add_column("why")
    table.add_column("clips", justify="right", footer=f"{summary.inputs:,}")
    table.add_row(Text("kept", "green"), "", f"{summary.kept:,}")
    for rule, count in summary.rejected.items():
        table.add_row(Text("rejected", "yellow"), rule.replace("_", " "), f"{count:,}")
    for reason, count in summary.quarantined.items():
        table.add_row(Text("quarantined", "red"), Text(reason), f"{count:,}")
    reused = f"; {summary.shards_reused} of {summary.shards} shards were finished before" * bool(summary.shards_reused)
    return Group(table, Text(f"{summary.seconds:.1f} s, {summary.clips_per_s:.0f} clips/s{reused}"))
