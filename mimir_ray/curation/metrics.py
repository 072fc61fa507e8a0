"""Scores of a clip, measured on its frames. Appendix A names them; `Measures` fixes what it leaves open.

Frames are grey, uint8, F H W. No threshold is applied here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import cv2
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

    @property
    def indices(self) -> list[int]:
        """Every frame that is needed, ascending."""
        return sorted({*self.quality, *(index for pair in self.motion for index in pair)})


def sample(times_s: Sequence[float], measures: Measures) -> Sampling:
    """Choose frames by when they are shown (`times_s`, ascending from 0), so a variable rate changes nothing."""
    count = len(times_s)
    quality = _spread(range(count), measures.quality_frames)
    step_s = 1 / measures.motion_fps
    ticks = np.arange(int((times_s[-1] + TIME_TOLERANCE_S) / step_s) + 1) * step_s + TIME_TOLERANCE_S
    grid = sorted({int(index) for index in np.searchsorted(times_s, ticks, side="right") - 1})
    if len(grid) == 1 and count > 1:  # shorter than one step: its two ends are all there is
        grid = [0, count - 1]
    pairs = list(pairwise(grid))
    return Sampling(quality=tuple(quality), motion=tuple(_spread(pairs, measures.motion_pairs)))


def score(frames: dict[int, Grey], sampling: Sampling, measures: Measures) -> Scores:
    """All scores of a clip from its grey frames by index."""
    quality_FHW = np.stack([frames[index] for index in sampling.quality])
    black_F = black_share(quality_FHW, measures.black_level)
    flows = [flow_magnitude(frames[a], frames[b], measures.farneback) for a, b in sampling.motion]
    return Scores(
        motion=float(np.mean(flows)) if flows else 0.0,
        black_area=int(black_F.sum()) / quality_FHW.size,
        brightness=int(quality_FHW.sum(dtype=np.int64)) / (255 * quality_FHW.size),
        black_frame_rate=int((black_F >= measures.black_frame_area * quality_FHW[0].size).sum()) / len(quality_FHW),
    )


def black_share(grey_FHW: Grey, black_level: int) -> NDArray[np.int64]:
    """How many pixels of each frame are black."""
    counts: NDArray[np.int64] = np.count_nonzero(grey_FHW < black_level, axis=(1, 2))
    return counts


def flow_magnitude(before_HW: Grey, after_HW: Grey, parameters: Farneback) -> float:
    """Mean length of the optical flow vectors between two frames, as a share of the diagonal.

    The mean of lengths: signed vectors of opposite motions would cancel.
    """
    p = parameters
    flow_HW2 = np.zeros((*before_HW.shape, 2), np.float32)
    cv2.calcOpticalFlowFarneback(
        before_HW, after_HW, flow_HW2, p.pyr_scale, p.levels, p.winsize, p.iterations, p.poly_n, p.poly_sigma, 0
    )
    height, width = before_HW.shape
    return float(np.hypot(flow_HW2[..., 0], flow_HW2[..., 1]).mean() / np.hypot(height, width))


def grey(frames_FHWC: NDArray[np.uint8]) -> list[Grey]:
    """RGB frames to grey ones (0.299 R + 0.587 G + 0.114 B)."""
    return [np.asarray(cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY), dtype=np.uint8) for frame_HWC in frames_FHWC]


def _spread(items: Sequence[T], limit: int) -> list[T]:
    """At most `limit` of `items`, evenly spread, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, limit).round()]
