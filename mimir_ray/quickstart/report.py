"""``report.html``: one self-contained page about one run, with nothing to fetch and nothing to hide."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from mimir_ray.quickstart.charts import bar, loss_chart, percent, score_chart
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
    """In plain words; empty where the prompt says it itself."""
    answer: str
    """Of the LLM."""
    videos: Sequence[tuple[bytes, Verdict]]
    """Of each model: mp4 and what the scorer says of it."""


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
    """By what went in."""
    steps: Sequence[Step]
    facts: Mapping[str, str]

    def html(self) -> str:
        """The whole page."""
        template = Template(TEMPLATE.read_text(encoding="utf-8"))
        return template.substitute(
            verdict=escape(" ".join(verdict(self))),
            legend=_legend(self.models),
            scores="".join(_scores(name, rows, self.models) for name, rows in self.scores.items()),
            examples="".join(_examples(name, self) for name in self.scores),
            loss=loss_chart(self.losses),
            funnels="".join(_funnel(name, funnel) for name, funnel in self.funnels.items()),
            steps=_rows((step.name, step.did, f"{step.seconds:,.0f} s") for step in self.steps),
            facts=_rows(self.facts.items()),
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


def _legend(models: Sequence[str]) -> str:
    keys = [f'<span class="key model{place}">{escape(model)}</span>' for place, model in enumerate(models)]
    return "".join(
        [
            *keys,
            '<span class="key floor">floor: true videos held against other prompts</span>',
            '<span class="key ceiling">ceiling: true videos after mp4</span>',
        ]
    )


def _scores(name: PromptSet, rows: Mapping[str, Mapping[str, Share]], models: Sequence[str]) -> str:
    title, what = SETS[name]
    who = ["floor", *models, "ceiling"]
    head = "".join(f"<th>{escape(column)}</th>" for column in ["", *who])
    body = _rows((axis, *(percent(shares[column]) for column in who)) for axis, shares in rows.items())
    count = max(shares[models[0]].total for shares in rows.values())
    return (
        f'<section class="card"><h3>{title} <small>{count} prompts</small></h3><p class="quiet">{what}</p>'
        f"{score_chart(rows, models)}"
        f"<details><summary>Figures</summary><table><tr>{head}</tr>{body}</table></details></section>"
    )


def _examples(name: PromptSet, report: Report) -> str:
    title, _ = SETS[name]
    of_set = [example for example in report.examples if example.prompt_set == name]
    shown, rest = of_set[:6], of_set[6:]
    page = f"<h3>{title}</h3>{_cards(shown, report.models)}"
    return page + (
        f"<details><summary>{len(rest)} more</summary>{_cards(rest, report.models)}</details>" if rest else ""
    )


def _cards(examples: Sequence[Example], models: Sequence[str]) -> str:
    return '<div class="grid">' + "".join(_card(example, models) for example in examples) + "</div>"


def _card(example: Example, models: Sequence[str]) -> str:
    figures = "".join(
        f"<figure>{_video(video)}<figcaption><b>{escape(model)}</b>{_marks(right)}</figcaption></figure>"
        for model, (video, right) in zip(models, example.videos, strict=True)
    )
    said = {"asks for": example.meaning, "the LLM says": example.answer}
    lines = "<br>".join(f"{who}: {escape(text)}" for who, text in said.items() if text)
    return (
        f'<article class="card"><h4>{escape(example.prompt)}</h4><p class="quiet">{lines}</p>'
        f'<div class="pair">{figures}</div></article>'
    )


def _video(mp4: bytes) -> str:
    data = base64.b64encode(mp4).decode()
    return f'<video src="data:video/mp4;base64,{data}" muted loop autoplay playsinline></video>'


def _marks(verdict: Verdict) -> str:
    return "".join(
        f'<span class="{"right" if right else "wrong"}">{escape(axis)}</span>'
        for axis, right in verdict.items()
        if axis != "all"
    )


def _funnel(name: str, funnel: Funnel) -> str:
    total = sum(funnel.counts.values())
    counts = "".join(
        f'<span class="key {escape(status)}">{count:,} {escape("kept" if status == "ok" else status)}</span>'
        for status, count in funnel.counts.items()
    )
    reasons = _rows(
        (reason, status, f"{count:,}")
        for status, found in funnel.reasons.items()
        for reason, count in sorted(found.items(), key=lambda item: -item[1])
    )
    refused = _rows(funnel.refused)
    return (
        f'<div class="card"><h3>{escape(name)}</h3><p>{total:,} files went in. {counts}</p>{bar(funnel.counts)}'
        f"<table><tr><th>reason</th><th></th><th>files</th></tr>{reasons}</table>"
        f"<details><summary>The files that did not pass</summary><table>{refused}</table></details></div>"
    )


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
