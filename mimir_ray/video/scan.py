"""Every frame of a video once, in order, in the sizes and formats that somebody wants to look at.

It runs in the calling process, which a decoder may take down; `mimir_ray.video.read` runs it in a child.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

from mimir_ray.video.clock import Clock
from mimir_ray.video.decode import fit
from mimir_ray.video.probe import VideoInfo, info_of, look_of
from mimir_ray.video.source import DECODE_ERRORS, damaged, decoded, explained, nothing_shown, opened
from mimir_ray.video.view import Painter, PixelFormat, deinterlaced


@dataclass(frozen=True)
class View:
    """A size and a format in which frames are wanted."""

    pixel_format: PixelFormat
    short_side_px: int | None
    """At most; None for the size that they have."""


@dataclass(frozen=True)
class Promise:
    """What is known before the first frame: its size as displayed, and what the header says of the rest."""

    width_px: int
    height_px: int
    frames: int
    duration_s: float


@dataclass(frozen=True)
class Shown:
    """A frame: when it is shown, from 0 for the first, and its picture in each view."""

    time_s: float
    pictures: tuple[NDArray[np.uint8], ...]


def scan(path: str, views: Sequence[View]) -> Iterator[Promise | Shown | VideoInfo]:
    """A promise, the frames, and in the end the facts. Raises VideoError; may crash, may hang."""
    times_s: list[float] = []
    try:
        with opened(path) as (container, stream):
            clock, look, interlaced = Clock(container, stream), None, False
            painters = [Painter() for _ in views]  # each keeps the tables of its size

            def timed() -> Iterator[av.VideoFrame]:
                nonlocal interlaced
                for frame in decoded(container.demux(stream)):
                    times_s.append(clock.shown_s(frame))
                    interlaced = interlaced or bool(frame.interlaced_frame)
                    yield frame

            for number, frame in enumerate(deinterlaced(timed(), clock.base)):
                if look is None:
                    look = look_of(stream, frame)
                    duration_s = float((container.duration or 0) / av.time_base)
                    yield Promise(look.width_px, look.height_px, stream.frames, duration_s)
                pictures = [
                    painter.paint(
                        frame, look.pose, *fit(look.width_px, look.height_px, view.short_side_px), view.pixel_format
                    )
                    for painter, view in zip(painters, views, strict=True)
                ]
                yield Shown(times_s[number], tuple(pictures))
            if look is None:
                raise nothing_shown()
            yield info_of(container, stream, look, times_s, clock, interlaced=interlaced)
    except DECODE_ERRORS as error:
        raise (damaged(len(times_s), error) if times_s else explained(error, path)) from error
