"""What became of the inputs, as a value and as a table to print."""

from collections.abc import Iterable, Iterator

import pyarrow.compute as pc
from rich.console import Group
from rich.text import Text

from mimir_ray.config import Config
from mimir_ray.curation.rules import RULES
from mimir_ray.curation.tables import outcome_table, scan
from mimir_ray.storage import Account, account, render_accounts


class Loss(Config):
    """An input that was not kept: a file, or a clip of one."""

    path: str
    status: str
    rule: str
    reason: str


class CurationSummary(Config):
    """The account of a curation: of the files, and of the clips in those which are ok."""

    files: Account
    clips: Account
    shards: int
    shards_reused: int
    """Shards that an earlier run had finished."""
    seconds: float
    """Wall time of this run."""
    shots: int = 0
    """The shots of all videos that were looked through for them."""
    short_shots: int = 0
    """The shots too short for a clip."""
    unreadable_captions: int = 0
    """The captions rejected because their bytes were not UTF-8."""
    notes: tuple[str, ...] = ()
    """What was found beside the videos and not taken, a sentence a kind; `sources.json` has the paths."""

    @property
    def clips_per_s(self) -> float:
        """Clips of this run per second, those of reused shards counted by share."""
        done = self.clips.inputs * (self.shards - self.shards_reused) / self.shards if self.shards else 0.0
        return done / self.seconds if self.seconds else 0.0


def summarise(out: str, shards_reused: int, seconds: float, notes: Iterable[str] = ()) -> CurationSummary:
    """Count the finished tables under `out`, shard by shard; `notes` are those of the search for videos."""
    clips = outcome_table(out, "clips")
    found = account(clips, "rule")
    order = dict.fromkeys([*(rule.name for rule in RULES), *sorted(found.rejected)])
    by_rule = {name: found.rejected[name] for name in order if name in found.rejected}
    return CurationSummary(
        files=account(outcome_table(out, "videos"), "rule"),
        clips=found.model_copy(update={"rejected": by_rule}),
        shards=len(clips.shards()),
        shards_reused=shards_reused,
        seconds=seconds,
        shots=_sum(out, "shots"),
        short_shots=_sum(out, "short_shots"),
        unreadable_captions=outcome_table(out, "captions").count(["rule"])[("not_text",)],
        notes=tuple(notes),
    )


def _sum(out: str, column: str) -> int:
    """Over all videos."""
    counts = outcome_table(out, "videos").count([column])
    return sum((value or 0) * rows for (value,), rows in counts.items())


def losses(out: str) -> Iterator[Loss]:
    """Every file and every clip that was not kept, with the reason, shard by shard."""
    for name in ("videos", "clips"):
        for rows in scan(outcome_table(out, name), ["path", "status", "rule", "reason"]):
            for row in rows.filter(pc.not_equal(rows["status"], "ok")).to_pylist():
                yield Loss(**row)


def render(summary: CurationSummary) -> Group:
    """The summary as a rich table, lines on what it does not count, and one on the time."""
    rejected = {rule.replace("_", " "): count for rule, count in summary.clips.rejected.items()}
    clips = summary.clips.model_copy(update={"rejected": rejected})
    table = render_accounts("Curation", {"files": (summary.files, "read"), "clips": (clips, "kept")})
    said = f"this run did {summary.shards - summary.shards_reused} of {summary.shards} shards, "
    said += f"{summary.clips_per_s:,.0f} clips/s"
    if summary.shards_reused == summary.shards:
        said = "all of it was there before"
    return Group(table, *map(Text, _remarks(summary)), Text(f"{summary.seconds:.1f} s; {said}"))


def _remarks(summary: CurationSummary) -> Iterator[str]:
    """What the accounts do not say."""
    if summary.short_shots:
        short, shots = summary.short_shots, summary.shots
        yield f"{short:,} of {shots:,} shots are shorter than curation.split.min_clip_s and became no clip"
    if summary.unreadable_captions:
        yield f"{summary.unreadable_captions:,} captions are not UTF-8 and are not used: save their files as UTF-8"
    yield from summary.notes
