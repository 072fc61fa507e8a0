"""``report.html``: one self-contained page about one run, with nothing to fetch and nothing to hide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mimir_ray.pages import render
from mimir_ray.quickstart.charts import loss_chart, percent, score_chart
from mimir_ray.quickstart.sheet import Verdict
from mimir_ray.shapes.prompts import PromptSet
from mimir_ray.shapes.scoreboard import Share

KEPT_WITHIN = 0.05
"""A skill counts as kept when its share fell by no more than this."""

TEMPLATE = Path(__file__).with_name("report_template.html")

SETS: dict[PromptSet, tuple[str, str]] = {
    "long": ("Plain words", "Every colour, shape, place and direction is said. The base was trained on such captions."),
    "seen": ("Nicknames of the clips", "Nicknames that captions of the clips use: what fine-tuning alone can teach."),
    "held": (
        "Held-out nicknames",
        "Nicknames that no caption of any clip uses. Only the text that the LLM learnt to speak from explains them.",
    ),
}


@dataclass(frozen=True)
class Example:
    """One prompt and what became of it."""

    prompt_set: PromptSet
    prompt: str
    meaning: str
    """The meaning in plain words; empty where the prompt says it itself."""
    answer: str
    """The LLM's answer."""
    videos: Sequence[tuple[bytes, Verdict]]
    """The video of each model: mp4 and what the scorer says of it."""


@dataclass(frozen=True)
class Funnel:
    """What became of the files: counts by status and reason, and each file that did not pass."""

    counts: Mapping[str, int]
    reasons: Mapping[str, Mapping[str, int]]
    """Status -> reason -> files."""
    refused: Sequence[tuple[str, str, str]]
    """(file, status, reason), as many as the page can take."""


@dataclass(frozen=True)
class Step:
    """A stage of the road: what it did, and how long that took on the run that did it."""

    name: str
    did: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """All that the page says."""

    models: Sequence[str]
    """The base first, Mimir last."""
    scores: Mapping[PromptSet, Mapping[str, Mapping[str, Share]]]
    """Prompt set -> axis -> ``floor``, ``ceiling`` or model -> share."""
    examples: Sequence[Example]
    losses: Sequence[tuple[int, float]]
    funnels: Mapping[str, Funnel]
    """The account of each table, by what went in."""
    steps: Sequence[Step]
    facts: Mapping[str, str]

    def html(self) -> str:
        """The whole page."""
        return render(
            TEMPLATE,
            report=self,
            verdict=" ".join(verdict(self)),
            sets=SETS,
            prompts={
                name: max(shares[self.models[0]].total for shares in rows.values())
                for name, rows in self.scores.items()
            },
            percent=percent,
            score_chart=score_chart,
            loss_chart=loss_chart,
        )


def verdict(report: Report) -> tuple[str, str]:
    """The run in two sentences. It claims a difference only where the intervals do not touch."""
    base, mimir = report.models[0], report.models[-1]
    held, plain = report.scores["held"]["colour"], report.scores["long"]["all"]
    gained, lost = _above(held[mimir], held[base]), _above(plain[base], plain[mimir])
    first = (
        f"On nicknames that only the LLM knows, {base} paints the right colours in {percent(held[base])} of its videos "
        f"(the floor is {percent(held['floor'], interval=False)}) and {mimir} in {percent(held[mimir])}: "
    )
    first += "it understands words that no clip taught it." if gained else "on this run no difference can be claimed."
    second = (
        f"On plain words everything is right in {percent(plain[base])} of the base's videos and "
        f"{percent(plain[mimir])} of Mimir's: "
    )
    if lost:
        second += "fine-tuning has cost something there."
    elif plain[mimir].value >= plain[base].value - KEPT_WITHIN:
        second += "what the base could do is kept."
    else:
        second += "somewhat less, though with so few videos it could be chance."
    return first, second


def _above(share: Share, other: Share) -> bool:
    """Whether even the low end of one interval is above the high end of the other."""
    return share.interval[0] > other.interval[1]
