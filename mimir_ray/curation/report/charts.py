"""The charts of the report as inline SVG: no script, colours from the page's style sheet."""

import math

from markupsafe import Markup, escape

from mimir_ray.curation.report.findings import BINS, Axis, Histogram

WIDTH_PX, HEIGHT_PX, FOOT_PX, HEAD_PX = 360, 150, 18, 16


def histogram(chart: Histogram) -> Markup:
    """Clips by score: bars, each threshold as a line, and a field over what it turns away."""
    axis, floor = chart.axis, HEIGHT_PX - FOOT_PX
    parts = [f'<svg viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" role="img" aria-label="clips by {escape(chart.score)}">']
    places = [_place(axis, limit) for limit in chart.limits]
    for rule, x in zip(chart.rules, places, strict=True):
        start, end = (x, WIDTH_PX) if rule.must_be == "at most" else (0.0, x)
        parts.append(
            f'<rect class="beyond" x="{start:.1f}" y="{HEAD_PX}" width="{end - start:.1f}" height="{floor - HEAD_PX}"/>'
        )
    most, step = max(1, int(chart.counts.max())), WIDTH_PX / BINS
    for index, count in enumerate(chart.counts.tolist()):
        if count:
            height = max(1.5, (floor - HEAD_PX - 4) * count / most)  # one clip among a million is still to be seen
            parts.append(
                f'<rect class="bin" x="{index * step + 0.5:.1f}" y="{floor - height:.1f}" width="{step - 1:.1f}" '
                f'height="{height:.1f}"><title>{_range(axis, index)}: {count:,}</title></rect>'
            )
    for limit, x in zip(chart.limits, places, strict=True):
        anchor = "start" if x < 20 else "end" if x > WIDTH_PX - 20 else "middle"
        parts.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD_PX}" y2="{floor}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEAD_PX - 4}" text-anchor="{anchor}">{_short(limit)}</text>')
    parts.append(f'<line class="grid" x1="0" x2="{WIDTH_PX}" y1="{floor}" y2="{floor}"/>')
    for value in _ticks(axis):
        x = _place(axis, value)
        anchor = "start" if x < 10 else "end" if x > WIDTH_PX - 10 else "middle"
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT_PX - 4}" text-anchor="{anchor}">{_short(value)}</text>'
        )
    return Markup("".join([*parts, "</svg>"]))


def _place(axis: Axis, value: float) -> float:
    return axis.place(value) * WIDTH_PX


def _range(axis: Axis, index: int) -> str:
    """The values of a bar in words; the outermost ones have no end."""
    low, high = f"{axis.at(index / BINS):.3g}", f"{axis.at((index + 1) / BINS):.3g}"
    if index == 0:
        return f"below {high}"
    return f"{low} and above" if index == BINS - 1 else f"{low} to {high}"


def _ticks(axis: Axis) -> list[float]:
    """Round values along the axis: powers of ten, or quarters."""
    if not axis.log:
        return [axis.at(place / 4) for place in range(5)]
    first, last = math.ceil(math.log10(axis.low) - 1e-9), math.floor(math.log10(axis.high) + 1e-9)
    return [10.0**power for power in range(first, last + 1)]


def _short(value: float) -> str:
    return f"{value:g}".replace("e-0", "e-")
