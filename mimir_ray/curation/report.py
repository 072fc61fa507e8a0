"""`report.html`: one self-contained page about a finished curation, with nothing to fetch and no script."""

import base64
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from mimir_ray.curation.charts import funnel, histogram
from mimir_ray.curation.findings import Findings, Histogram, Losses, Sample, Work, gather
from mimir_ray.curation.rules import RULES, score_of
from mimir_ray.curation.stills import stills
from mimir_ray.curation.tables import Row
from mimir_ray.storage import LatestCopy, Manifest, join, write_bytes

TEMPLATE = Path(__file__).with_name("report_template.html")
IN_FACTS = ("frames", "duration_s", "aspect")
"""Scores that a card says in other words."""
MAX_CAPTION = 300
"""Characters of a caption that a card shows."""

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
    pictures = _pictures([*findings.kept.rows, *(clip for sample in findings.rejected for clip in sample.rows)])
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        out=escape(findings.out),
        files=_account("files", "read", findings.files),
        clips=_account("clips", "kept", findings.clips),
        captions=_account("captions", "kept", findings.captions),
        shots=_shots(findings),
        funnel=funnel(findings.funnel()),
        histograms="".join(_histogram(chart) for chart in findings.histograms),
        kept=_sheet("Kept", findings.kept, findings, pictures),
        rejected="".join(
            _sheet(sample.rule, sample, findings, pictures) for sample in findings.rejected if sample.total
        )
        or '<p class="quiet">No clip was rejected.</p>',
        losses=_losses("files", findings.lost_files) + _losses("clips", findings.lost_clips)
        or '<p class="quiet">Every file was read once, and every clip was processed.</p>',
        work=_rows(_work(findings)),
        rules=_rows(_rules(findings)),
        settings=_rows(_leaves(findings.clips.config)),
        facts=_rows(_facts(findings)),
    )


def _account(what: str, ok: str, manifest: Manifest) -> str:
    """The account of a table in words and as a bar."""
    counts = {"ok": manifest.ok, "rejected": manifest.rejected, "quarantined": manifest.quarantined}
    keys = " + ".join(
        f'<span class="key {status}">{count:,} {ok if status == "ok" else status}</span>'
        for status, count in counts.items()
    )
    bar = "".join(f'<span class="{status}" style="flex:{count}"></span>' for status, count in counts.items() if count)
    return f'<div class="card"><h3>{manifest.inputs:,} {what}</h3><p>= {keys}</p><div class="bar">{bar}</div></div>'


def _shots(findings: Findings) -> str:
    """What lies between files and clips, where shots were looked for."""
    if not findings.shots:
        return ""
    return (
        f'<p class="quiet">{findings.shots:,} shots were found, of which {findings.short_shots:,} are shorter than '
        "split.min_clip_s and became no clip; a long one becomes several.</p>"
    )


def _histogram(chart: Histogram) -> str:
    title = f"<h3>{_words(chart.score)} <small>{chart.measured:,} clips</small></h3>"
    if not chart.measured:
        return f'<div class="card">{title}<p class="quiet">No clip has this score.</p></div>'
    shares = "".join(
        f"<p>must be {rule.must_be} {limit:g}: <b>{beyond:,}</b> ({beyond / chart.measured:.1%}) are not</p>"
        for rule, limit, beyond in zip(chart.rules, chart.limits, chart.beyond, strict=True)
    )
    return f'<div class="card">{title}{histogram(chart)}{shares}</div>'


def _sheet(title: str, sample: Sample, findings: Findings, pictures: Mapping[str, str]) -> str:
    """A contact sheet: `sample` in cards."""
    cards = "".join(_card(clip, findings, pictures) for clip in sample.rows)
    shown = f"{len(sample.rows):,} of {sample.total:,} clips"
    return f'<h3>{_words(title)} <small>{shown}</small></h3><div class="grid">{cards}</div>'


def _card(clip: Row, findings: Findings, pictures: Mapping[str, str]) -> str:
    span = f"{clip['start_s']:.2f} to {clip['end_s']:.2f} s"
    lines = [f"<b>{escape(clip['path'])}</b>", f'<span class="quiet">{span}</span>']
    if clip["reason"]:
        lines.append(f'<span class="reason">{escape(clip["reason"])}</span>')
    lines.append(f"<span>{_scores(clip)}</span>")
    if text := findings.texts.get(clip["clip_id"]):
        shown = text if len(text) <= MAX_CAPTION else text[:MAX_CAPTION] + "…"
        lines.append(f'<span class="quiet">“{escape(shown)}”</span>')
    return f"<figure>{pictures[clip['clip_id']]}<figcaption>{''.join(lines)}</figcaption></figure>"


def _pictures(clips: Iterable[Row]) -> dict[str, str]:
    """Those of every clip by its id. Clips of a video are read one after another, so that it is fetched once."""
    copies = LatestCopy()
    in_order = sorted(clips, key=lambda clip: (clip["path"], clip["first_frame"]))
    return {clip["clip_id"]: _pictures_of(clip, copies) for clip in in_order}


def _pictures_of(clip: Row, copies: LatestCopy) -> str:
    """Three frames of a clip, or a placeholder: videos may be moved or deleted once they are curated."""
    try:
        pictures = stills(clip, copies)
    except Exception as error:
        logger.debug("no stills of %s", clip["path"], exc_info=error)
        return f'<div class="gone">cannot be read any more: {escape(str(error)[:200])}</div>'
    images = (
        f'<img src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}" alt="{moment}">'
        for moment, picture in zip(("begin", "middle", "end"), pictures, strict=True)
    )
    return f'<div class="stills">{"".join(images)}</div>'


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


def _losses(what: str, losses: Losses) -> str:
    rows = "".join(
        f"<tr><td>{kind.status}</td><td>{escape(name)}</td><td>{kind.count:,}</td><td>"
        + "".join(f'<p>{escape(path)}<br><span class="quiet">{escape(why)}</span></p>' for path, why in kind.examples)
        + (f'<p class="quiet">and {rest:,} more</p>' if (rest := kind.count - len(kind.examples)) else "")
        + "</td></tr>"
        for name, kind in sorted(losses.kinds.items(), key=lambda item: -item[1].count)
    )
    head = f"<tr><th></th><th>why</th><th>{what}</th><th>for example</th></tr>"
    return f'<div class="card"><table>{head}{rows}</table></div>' if rows else ""


def _work(findings: Findings) -> Iterator[Sequence[str]]:
    for work in findings.work:
        took = f"{work.seconds:,.1f} s" if work.seconds else "in that of split" if work.name == "measure" else "–"
        yield work.name, f"{work.clips:,}", f"{work.failures:,}", took, _rate(work)
    for name in findings.off:
        yield name, "off", "", "", ""


def _rate(work: Work) -> str:
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


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
