"""Scores of a clip: which frames are looked at, and what for. Appendix A names them; `Measures` fixes what it leaves
open.

Frames are grey, uint8, H W. No threshold is applied here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mimir_ray.curation.config import Farneback, Measures

Grey = NDArray[np.uint8]
TIME_TOLERANCE_S = 1e-6

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """`motion` in shares of the frame's diagonal per step; the others are shares or means from 0 to 1."""

    motion: float
    black_area: float
    brightness: float
    black_frame_rate: float


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames of a clip are looked at: once decoded, all measures share them."""

    quality: tuple[int, ...]
    motion: tuple[tuple[int, int], ...]


def sample(times_s: Sequence[float], measures: Measures) -> Sampling:
    """Choose frames by when they are shown (`times_s`, ascending from 0), so a variable rate changes nothing."""
    count = len(times_s)
    quality = _spread(range(count), measures.quality_frames)
    step_s = 1 / measures.motion_fps
    ticks = np.arange(int((times_s[-1] + TIME_TOLERANCE_S) / step_s) + 2) / measures.motion_fps
    ticks = ticks[ticks <= times_s[-1] + TIME_TOLERANCE_S] + TIME_TOLERANCE_S
    grid = sorted({int(index) for index in np.searchsorted(times_s, ticks, side="right") - 1})
    if len(grid) == 1 and count > 1:  # shorter than one step: its two ends are all there is
        grid = [0, count - 1]
    pairs = list(pairwise(grid))
    return Sampling(quality=tuple(quality), motion=tuple(_spread(pairs, measures.motion_pairs)))


def black_pixels(grey_HW: Grey, black_level: int) -> int:
    """How many pixels of a frame are black."""
    return int(np.count_nonzero(grey_HW < black_level))


def flow_magnitude(before_HW: Grey, after_HW: Grey, parameters: Farneback) -> float:
    """Mean length of the optical flow vectors between two frames, as a share of the diagonal.

    The mean of lengths: signed vectors of opposite motions would cancel.
    """
    import cv2

    p = parameters
    flow_HW2 = np.zeros((*before_HW.shape, 2), np.float32)
    cv2.calcOpticalFlowFarneback(
        before_HW, after_HW, flow_HW2, p.pyr_scale, p.levels, p.winsize, p.iterations, p.poly_n, p.poly_sigma, 0
    )
    height, width = before_HW.shape
    return float(np.hypot(flow_HW2[..., 0], flow_HW2[..., 1]).mean() / np.hypot(height, width))


def _spread(items: Sequence[T], limit: int) -> list[T]:
    """At most `limit` of `items`, evenly spread, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, limit).round()]
