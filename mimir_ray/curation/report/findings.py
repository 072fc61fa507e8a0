"""What the tables of a finished curation say, gathered shard by shard: memory does not grow with the clips."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mimir_ray.config import UserError, from_dict
from mimir_ray.curation.pipeline import VerdictKey
from mimir_ray.curation.rules import RULES, Rule, Rules
from mimir_ray.curation.tables import outcome_table, scan, stage_table
from mimir_ray.dataflow import Row
from mimir_ray.storage import Manifest, Table

KEPT_SHOWN, REJECTED_SHOWN = 24, 12
"""Clips in a draw: of those kept, and of those that each rule turned away."""
BINS = 40
EDGE = 1e-9
"""Much less than the width of a bar, where that of the histogram is 1."""
MAX_KINDS, MAX_EXAMPLES = 50, 3
"""The kinds of reasons that are told apart, and the examples of each; the rest is counted."""
OTHER = "other reasons"

_NUMBER = re.compile(r"\b\d+(?:[.,]\d+)*(?:x\d+)?")


@dataclass(frozen=True)
class Axis:
    """The range of a score that a histogram shows."""

    low: float
    high: float
    log: bool = False

    def including(self, limit: float) -> "Axis":
        """This axis, made longer where `limit` would lie at one of its ends, and moved so that bars end at it."""
        high = 2 * limit if limit >= self.high else self.high
        if not self.log:  # its bars end at round numbers, as its thresholds do
            return Axis(min(self.low, 2 * limit), high)
        if limit <= 0:
            return self
        low = min(self.low, limit / 2)
        bar = math.log(high / low) / BINS
        moved = math.exp(math.log(limit / low) % bar)
        return Axis(low * moved, high * moved, log=True)

    def places(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where values lie: 0 is the low end, 1 the high one, and what is beyond an end lies on it."""
        low, high = self.low, self.high
        if self.log:
            values, low, high = np.log10(np.maximum(values, low)), math.log10(low), math.log10(high)
        return np.clip((values - low) / (high - low), 0.0, 1.0)

    def place(self, value: float) -> float:
        """Where one value lies."""
        return float(self.places(np.array([value]))[0])

    def at(self, place: float) -> float:
        """The value at a place."""
        if self.log:
            return float(self.low * (self.high / self.low) ** place)
        return self.low + place * (self.high - self.low)


AXES = {
    "frames": Axis(1, 10_000, log=True),
    "duration_s": Axis(0.1, 1_000, log=True),
    "aspect": Axis(0, 4),
    "motion": Axis(1e-6, 1, log=True),
    "aesthetic_mean": Axis(0, 10),
    "watermark_margin": Axis(-10, 10),
}
"""The axes by score; any other score is a share or a mean from 0 to 1, unless its threshold says otherwise."""


@dataclass
class Histogram:
    """How a score is spread over the clips that have it, and how many are beyond each of its thresholds."""

    score: str
    rules: Sequence[Rule]
    limits: Sequence[float]
    """One for each rule."""
    axis: Axis
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    beyond: list[int] = field(default_factory=list)
    """Clips that do not meet each rule, those that an earlier rule turned away among them."""

    @classmethod
    def of(cls, score: str, rules: Rules) -> "Histogram":
        """An empty one."""
        about = [rule for rule in RULES if rule.score == score]
        limits = [rule.limit_in(rules) for rule in about]
        axis = AXES.get(score, Axis(0, 1))
        for limit in limits:
            axis = axis.including(limit)
        return cls(score, about, limits, axis, beyond=[0] * len(about))

    @property
    def measured(self) -> int:
        """Clips that have the score."""
        return int(self.counts.sum())

    def add(self, clips: pa.Table) -> None:
        """Count the clips of a shard."""
        values = _values(clips, self.score)
        places = self.axis.places(values)
        for index, (rule, limit) in enumerate(zip(self.rules, self.limits, strict=True)):
            self.beyond[index] += sum(not rule.meets(value, limit) for value in values.tolist())
            # What is at the threshold belongs to the bar on that side of the line on which its equals are judged.
            places[values == limit] += EDGE if rule.must_be == "at least" else -EDGE
        self.counts += np.histogram(places.clip(0.0, 1.0), BINS, (0.0, 1.0))[0]


@dataclass
class Draw:
    """The clips with one outcome: how many there are, and some of them.

    Those with the smallest ids are shown. Ids are hashes, so that is a draw, and the same one every time.
    """

    rule: str
    """The rule that turned them away; empty for the clips that were kept."""
    size: int
    total: int = 0
    rows: list[Row] = field(default_factory=list)

    def add(self, clips: pa.Table) -> None:
        """Draw among the clips of a shard too."""
        status = "rejected" if self.rule else "ok"
        found = clips.filter(pc.and_(pc.equal(clips["status"], status), pc.equal(clips["rule"], self.rule)))
        self.total += len(found)
        drawn = found.sort_by("clip_id").slice(0, self.size).to_pylist()
        self.rows = sorted([*self.rows, *drawn], key=lambda row: str(row["clip_id"]))[: self.size]


@dataclass
class LossKind:
    """Losses for one reason, but for the numbers in it."""

    status: str
    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason)"""


@dataclass
class Losses:
    """Files or clips that were lost, by kind of reason."""

    statuses: Sequence[str]
    """The statuses that count as lost."""
    kinds: dict[str, LossKind] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        """Count the rows of a shard."""
        lost = rows.filter(pc.is_in(rows["status"], pa.array(self.statuses)))
        for row in lost.select(["path", "status", "rule", "reason"]).to_pylist():
            name = row["rule"] or _NUMBER.sub("N", row["reason"])
            if name not in self.kinds and len(self.kinds) >= MAX_KINDS:
                name = OTHER
            kind = self.kinds.setdefault(name, LossKind(row["status"]))
            kind.count += 1
            if len(kind.examples) < MAX_EXAMPLES:
                kind.examples.append((row["path"], row["reason"]))


@dataclass(frozen=True)
class StageWork:
    """What a stage did, in one process after another: `seconds` is the sum over all workers."""

    name: str
    clips: int
    failures: int
    seconds: float
    tokens: int
    """The tokens that it wrote; 0 of a stage that writes no text."""


@dataclass(frozen=True)
class Findings:
    """All that the report says, but for the pictures."""

    out: str
    files: Manifest
    clips: Manifest
    captions: Manifest
    histograms: Sequence[Histogram]
    kept: Draw
    rejected: Sequence[Draw]
    """A draw by rule, in the paper's order; the rules on captions come last, by name."""
    lost_files: Losses
    lost_clips: Losses
    shots: int
    """The shots in all videos that were looked through for them."""
    short_shots: int
    """The shots too short for a clip."""
    work: Sequence[StageWork]
    off: Sequence[str]
    """Stages that were not run."""
    limits: Sequence[tuple[Rule, float]]
    """Every rule that was applied to clips, with its threshold."""
    texts: dict[str, str]
    """A caption of each clip that is shown, by clip_id."""

    def funnel(self) -> Iterator[tuple[str, str, int]]:
        """What was left after each step: (`files` or `clips`, the step, how many)."""
        yield "files", "found", self.files.inputs
        yield "files", "read", self.files.ok
        yield "clips", "cut", self.clips.inputs
        left = self.clips.inputs - self.clips.quarantined
        yield "clips", "processed", left
        for draw in self.rejected:
            left -= draw.total
            yield "clips", f"after {draw.rule.replace('_', ' ')}", left
        yield "clips", "kept", self.clips.ok


def gather(out: str) -> Findings:
    """Read the tables under the data root `out`. Raises UserError where no curation was finished there."""
    videos, clips, captions = (outcome_table(out, name) for name in ("videos", "clips", "captions"))
    judged = _finished(clips, out)
    key = from_dict(VerdictKey, judged.config, origin=clips.uri)
    off = [name for name, made in key.stages.items() if made == "off"]
    applied = [rule for rule in RULES if rule.stage not in off]
    spread = dict.fromkeys(rule.score for rule in applied if not rule.yes_or_no)
    histograms = [Histogram.of(score, key.rules) for score in spread]
    kept = Draw("", KEPT_SHOWN)
    strict = [rule for rule in applied if not (rule.yes_or_no and rule.limit_in(key.rules))]  # others reject nothing
    rejected = {rule.name: Draw(rule.name, REJECTED_SHOWN) for rule in strict}
    shots = short_shots = 0
    lost_files, lost_clips = Losses(["rejected", "quarantined"]), Losses(["quarantined"])
    for rows in scan(videos, ["path", "status", "rule", "reason", "shots", "short_shots"]):
        lost_files.add(rows)
        shots += pc.sum(rows["shots"]).as_py() or 0
        short_shots += pc.sum(rows["short_shots"]).as_py() or 0
    on_captions: dict[str, Draw] = {}
    of_clips: list[Histogram | Draw | Losses] = [*histograms, kept, lost_clips]
    for rows in scan(clips):
        for name in filter(None, pc.unique(rows["rule"]).to_pylist()):
            if name not in rejected:
                on_captions.setdefault(name, Draw(name, REJECTED_SHOWN))
        for part in (*of_clips, *rejected.values(), *on_captions.values()):
            part.add(rows)
    draws = [*rejected.values(), *(on_captions[name] for name in sorted(on_captions))]
    shown = [row for draw in (kept, *draws) for row in draw.rows]
    return Findings(
        out=out,
        files=_finished(videos, out),
        clips=judged,
        captions=_finished(captions, out),
        histograms=histograms,
        kept=kept,
        rejected=draws,
        lost_files=lost_files,
        lost_clips=lost_clips,
        shots=shots,
        short_shots=short_shots,
        work=[_work(out, name) for name in ("split", *(name for name, made in key.stages.items() if made != "off"))],
        off=off,
        limits=[(rule, rule.limit_in(key.rules)) for rule in applied],
        texts=_texts(captions, [row["clip_id"] for row in shown]),
    )


def _finished(table: Table, out: str) -> Manifest:
    manifest = table.manifest()
    if manifest is None:
        raise UserError(
            f"{out} holds no finished curation: its table {table.name} has {len(table.shards())} shards and no "
            f"manifest that covers them; run `mimir curate SOURCE... --out {out}` to its end first"
        )
    if manifest.schema_version != table.version:
        raise UserError(
            f"{table.uri} holds version {manifest.schema_version} of the table {table.name}, and this mimir reads "
            f"version {table.version}: curate again with --overwrite, or report with the mimir that curated"
        )
    return manifest


def _values(clips: pa.Table, score: str) -> NDArray[np.float64]:
    """The scores of the clips that have one; what is no number counts as none."""
    if score == "aspect":
        column = pc.divide(clips["width_px"].cast(pa.float64()), clips["height_px"])
    else:
        column = clips[score].cast(pa.float64())
    values: NDArray[np.float64] = column.drop_null().to_numpy()
    return values[np.isfinite(values)]


def _work(out: str, stage: str) -> StageWork:
    clips, failures, seconds, tokens = 0, 0, 0.0, 0
    counted = ["recaption_tokens"] if stage == "recaption" else []
    for rows in stage_table(out, stage).scan(["status", "seconds", *counted]):
        clips += len(rows)
        failures += len(rows.filter(pc.equal(rows["status"], "quarantined")))
        seconds += pc.sum(rows["seconds"]).as_py() or 0.0
        tokens += sum(pc.sum(rows[name]).as_py() or 0 for name in counted)
    return StageWork(stage, clips, failures, seconds, tokens)


def _texts(captions: Table, wanted: Sequence[str]) -> dict[str, Any]:
    """The first caption of each wanted clip."""
    found: dict[str, Any] = {}
    for rows in captions.scan(["clip_id", "text"]):
        for row in rows.filter(pc.is_in(rows["clip_id"], pa.array(wanted, pa.string()))).to_pylist():
            found.setdefault(row["clip_id"], row["text"])
    return found
