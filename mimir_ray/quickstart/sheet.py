"""The contact sheet: one picture that shows what base and Mimir made of the same prompts."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mimir_ray.shapes.world import Frames

CELL_PX, GAP_PX, TEXT_PX, MARGIN_PX, HEAD_PX = 80, 3, 236, 24, 64
PAPER, INK, QUIET, RIGHT, WRONG = "#ffffff", "#1c1e21", "#6b7077", "#1d7f4e", "#b3372b"


Verdict = Mapping[str, bool]
"""What the exact scorer says of one video: axis -> right; axes that do not apply are absent."""


@dataclass(frozen=True)
class SheetRow:
    """One prompt, what it means (may be empty), and each model's video (F H W 3) with its verdict."""

    prompt: str
    meaning: str
    videos: Sequence[tuple[Frames, Verdict]]


def contact_sheet(title: str, models: Sequence[str], rows: Sequence[SheetRow], moments: int = 5) -> bytes:
    """A PNG: rows are prompts, columns are models, each with ``moments`` frames spread evenly over its video."""
    strip_px = moments * (CELL_PX + GAP_PX)
    width = 2 * MARGIN_PX + TEXT_PX + len(models) * (strip_px + MARGIN_PX)
    row_px = CELL_PX + 26
    page = Image.new("RGB", (width, 2 * MARGIN_PX + HEAD_PX + row_px * len(rows)), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN_PX, MARGIN_PX), title, INK, _font(20))
    for column, model in enumerate(models):
        draw.text((_left(column, strip_px), MARGIN_PX + HEAD_PX - 26), model, INK, _font(15))
    for index, row in enumerate(rows):
        top = MARGIN_PX + HEAD_PX + index * row_px
        y = _wrapped(draw, row.prompt, top + 4, 15, INK)
        _wrapped(draw, row.meaning, y + 3, 12, QUIET)
        for column, (frames, verdict) in enumerate(row.videos):
            left = _left(column, strip_px)
            for place, moment in enumerate(np.linspace(0, len(frames) - 1, moments).round().astype(int)):
                cell = Image.fromarray(frames[moment]).resize((CELL_PX, CELL_PX), Image.Resampling.BICUBIC)
                page.paste(cell, (left + place * (CELL_PX + GAP_PX), top))
            _verdict(draw, verdict, left, top + CELL_PX + 3)
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _left(column: int, strip_px: int) -> int:
    return MARGIN_PX + TEXT_PX + column * (strip_px + MARGIN_PX)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrapped(draw: ImageDraw.ImageDraw, text: str, y: float, size: int, colour: str) -> float:
    """Draw ``text`` in the first column, broken into lines; returns where the next line would start."""
    font, line = _font(size), ""
    for word in [*text.split(), None]:
        longer = f"{line} {word}".strip()
        if word is not None and draw.textlength(longer, font) <= TEXT_PX - MARGIN_PX:
            line = longer
            continue
        draw.text((MARGIN_PX, y), line, colour, font)
        y += size * 1.3
        line = word or ""
    return y


def _verdict(draw: ImageDraw.ImageDraw, verdict: Verdict, left: int, y: int) -> None:
    font = _font(12)
    for axis, right in verdict.items():
        if axis == "all":
            continue
        colour = RIGHT if right else WRONG
        draw.ellipse((left, y + 4, left + 7, y + 11), fill=colour if right else None, outline=colour, width=2)
        draw.text((left + 11, y), axis, colour, font)
        left += 11 + int(draw.textlength(axis, font)) + 12
