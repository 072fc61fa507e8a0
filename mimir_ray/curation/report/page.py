"""`report.html`: one self-contained page about a finished curation, with nothing to fetch and no script."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimir_ray.curation.report.charts import histogram
from mimir_ray.curation.report.findings import Findings, StageWork, gather
from mimir_ray.curation.report.stills import stills
from mimir_ray.curation.rules import RULES, score_of
from mimir_ray.dataflow import Row
from mimir_ray.pages import render
from mimir_ray.storage import LatestCopy, join, write_bytes

TEMPLATE = Path(__file__).with_name("template.html")
IN_FACTS = ("frames", "duration_s", "aspect")
"""Scores that a card says in other words."""
MAX_CAPTION, MAX_GONE = 300, 200
"""Characters that a card shows: of a caption, and of the reason why its clip cannot be read."""

logger = logging.getLogger(__name__)


def write_report(out: str) -> str:
    """Write `report.html` under the data root `out` and return where it is.

    Raises UserError where no curation was finished there. A clip that cannot be read any more is shown as such.
    """
    target = join(out, "report.html")
    write_bytes(target, page(gather(out)).encode())
    return target


def page(findings: Findings) -> str:
    """The whole page."""
    return render(
        TEMPLATE,
        findings=findings,
        cards=_cards(findings),
        funnel=_funnel(findings),
        histogram=histogram,
        work=_work(findings),
        rules=_rules(findings),
        settings=_leaves(findings.clips.config),
        facts=_facts(findings),
        words=_words,
    )


@dataclass(frozen=True)
class Card:
    """What the page says of a clip beside its row."""

    stills: Sequence[bytes]
    """JPEGs of its first, its middle and its last frame; none where it cannot be read any more."""
    gone: str
    """Why it cannot be read."""
    scores: str
    caption: str


def _cards(findings: Findings) -> dict[str, Card]:
    """The card of every clip that is shown, by its id."""
    copies = LatestCopy()
    shown = [clip for draw in (findings.kept, *findings.rejected) for clip in draw.rows]
    shown.sort(key=lambda clip: (clip["path"], clip["first_frame"]))  # so that a video is fetched once
    return {clip["clip_id"]: _card(clip, findings, copies) for clip in shown}


def _card(clip: Row, findings: Findings, copies: LatestCopy) -> Card:
    pictures, gone = list[bytes](), ""
    try:
        pictures = stills(clip, copies)
    except Exception as error:  # videos may be moved or deleted once they are curated
        logger.debug("no stills of %s", clip["path"], exc_info=error)
        gone = str(error)[:MAX_GONE]
    caption = findings.texts.get(clip["clip_id"]) or ""
    if len(caption) > MAX_CAPTION:
        caption = caption[:MAX_CAPTION] + "…"
    return Card(pictures, gone, _scores(clip), caption)


def _funnel(findings: Findings) -> Iterator[tuple[str, str, int, float]]:
    """The steps with the share that is left of the first step of the same unit."""
    first = dict[str, int]()
    for unit, step, count in findings.funnel():
        whole = first.setdefault(unit, count)
        yield unit, step, count, count / whole if whole else 0.0


def _scores(clip: Row) -> str:
    """Facts and scores of a clip in words; of what is so or not only what is so."""
    said = [f"{clip['frames']:,} frames", f"{clip['duration_s']:.2f} s", f"{clip['width_px']}x{clip['height_px']}"]
    for name, yes_or_no in {rule.score: rule.yes_or_no for rule in RULES if rule.score not in IN_FACTS}.items():
        value = score_of(clip, name)
        if value is not None and not yes_or_no:
            said.append(f"{_words(name)} {value:.3g}")
        elif value:
            said.append(_words(name))
    return ", ".join(said)


def _work(findings: Findings) -> Iterator[Sequence[str]]:
    for work in findings.work:
        took = f"{work.seconds:,.1f} s" if work.seconds else "in that of split" if work.name == "measure" else "–"
        yield work.name, f"{work.clips:,}", f"{work.failures:,}", took, _rate(work)
    for name in findings.off:
        yield name, "off", "", "", ""


def _rate(work: StageWork) -> str:
    if not work.seconds:
        return "–"
    tokens = f" ({work.tokens / work.seconds:,.1f} tokens/s)" if work.tokens else ""
    return f"{work.clips / work.seconds:,.2f}{tokens}"


def _rules(findings: Findings) -> Iterator[Sequence[str]]:
    for rule, limit in findings.limits:
        said = ("allowed" if limit else "excluded") if rule.yes_or_no else f"{rule.must_be} {limit:g}"
        yield _words(rule.name), said, rule.limit


def _facts(findings: Findings) -> Iterator[Sequence[str]]:
    clips = findings.clips
    yield "data root", findings.out
    yield "table clips", f"version {clips.schema_version}"
    yield "fingerprint", clips.fingerprint
    yield "shards", f"{clips.shards:,}"
    yield "the run that finished it took", f"{clips.seconds:,.1f} s"


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[Sequence[str]]:
    """Every value of a configuration by its dotted name."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _words(name: str) -> str:
    """A column's name to be read: without its unit, which the figures have."""
    return name.removesuffix("_s").replace("_", " ")
