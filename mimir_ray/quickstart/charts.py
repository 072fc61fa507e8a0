"""Charts of the report as inline SVG: no script, no library, colours from the page's style sheet."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from mimir_ray.shapes.scoreboard import Share

ROW_PX, LABEL_PX, PLOT_PX = 44, 78, 330


def score_chart(rows: Mapping[str, Mapping[str, Share]], models: Sequence[str]) -> Markup:
    """One line an axis: a mark and a 95% whisker for each model, the floor as a grey field, the ceiling as a tick.

    ``rows`` maps axis -> who -> share, where who is ``floor``, ``ceiling`` or a model.
    """
    height = ROW_PX * len(rows) + 26
    parts = [f'<svg class="scores" viewBox="0 0 {LABEL_PX + PLOT_PX + 16} {height}" role="img">']
    for tick in (0, 25, 50, 75, 100):
        x = _x(tick / 100)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="4" y2="{height - 20}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{height - 6}" text-anchor="middle">{tick}%</text>')
    for index, (axis, shares) in enumerate(rows.items()):
        y = 4 + ROW_PX * index + ROW_PX / 2
        parts.append(f'<text x="{LABEL_PX - 10}" y="{y + 4}" text-anchor="end">{escape(axis)}</text>')
        floor, ceiling = shares["floor"].value, shares["ceiling"].value
        parts.append(f'<rect class="floor" x="{_x(0)}" width="{floor * PLOT_PX:.1f}" y="{y - 16}" height="32"/>')
        parts.append(f'<line class="ceiling" x1="{_x(ceiling)}" x2="{_x(ceiling)}" y1="{y - 16}" y2="{y + 16}"/>')
        for place, model in enumerate(models):
            parts.append(_whisker(shares[model], y + (place - (len(models) - 1) / 2) * 14, f"model{place}", model))
    return Markup("".join([*parts, "</svg>"]))


def _x(share: float) -> float:
    return round(LABEL_PX + share * PLOT_PX, 1)


def _whisker(share: Share, y: float, style: str, model: str) -> str:
    low, high = (_x(end) for end in share.interval)
    return (
        f'<g class="{style}"><title>{escape(model)}: {percent(share)}, {share.right} of {share.total}</title>'
        f'<line x1="{low}" x2="{high}" y1="{y}" y2="{y}"/><circle cx="{_x(share.value)}" cy="{y}" r="4.5"/></g>'
    )


def percent(share: Share, interval: bool = True) -> str:
    """``83% [67, 92]``."""
    low, high = share.interval
    return f"{share.value:.0%}" + (f" [{low * 100:.0f}, {high * 100:.0f}]" if interval else "")


def loss_chart(losses: Sequence[tuple[int, float]]) -> Markup:
    """Loss against step: every logged value as a faint line, a running mean over a tenth of the run on top."""
    points = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    if len(points) < 2:
        return Markup('<p class="quiet">Too few logged steps for a curve.</p>')
    width, height, left, bottom = 720, 220, 52, 28
    steps, values = [step for step, _ in points], [loss for _, loss in points]
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low, high = low - margin, high + margin

    def place(step: float, loss: float) -> str:
        x = left + (step - steps[0]) / (steps[-1] - steps[0]) * (width - left - 12)
        return f"{x:.1f},{(high - loss) / (high - low) * (height - bottom - 8) + 8:.1f}"

    reach = max(1, len(points) // 10)
    means = [sum(part) / len(part) for part in (values[max(0, at - reach + 1) : at + 1] for at in range(len(values)))]
    parts = [f'<svg class="loss" viewBox="0 0 {width} {height}" role="img">']
    for tick in range(4):
        value = low + margin + (high - low - 2 * margin) * tick / 3
        y = place(steps[0], value).partition(",")[2]
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 12}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{value:.3f}</text>')
    for step, anchor in ((steps[0], "start"), (steps[-1], "end")):
        x = place(step, low).partition(",")[0]
        parts.append(f'<text class="tick" x="{x}" y="{height - 8}" text-anchor="{anchor}">step {step:,}</text>')
    for style, curve in (("raw", values), ("mean", means)):
        line = " ".join(place(step, value) for step, value in zip(steps, curve, strict=True))
        parts.append(f'<polyline class="{style}" points="{line}"/>')
    return Markup("".join([*parts, "</svg>"]))
