"""At which size the model sees a clip, which frames of it, and how they are brought to that size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimir_ray.precompute.config import PrecomputeConfig, Size
from mimir_ray.precompute.outcomes import Rejected
from mimir_ray.records import Clip

ROUNDING_S = 1e-3
"""The rounding of times in containers such as Matroska."""


class TooShort(Rejected):
    """The clip is shorter, or of a lower rate, than the selection needs."""


def choose_size(clip: Clip, config: PrecomputeConfig) -> tuple[Size, list[int]]:
    """The one size that a clip is encoded at, and the indices of its frames. Raises TooShort where it fills none."""
    *others, last = nearest_sizes(clip, config)
    for size in others:
        try:
            return size, select_frames(clip.times_s, size.num_frames, config.sample_fps)
        except TooShort:
            continue
    return last, select_frames(clip.times_s, last.num_frames, config.sample_fps)


def nearest_sizes(clip: Clip, config: PrecomputeConfig) -> list[Size]:
    """The sizes whose aspect is nearest to the clip's, those of most frames first, and then those nearest in area."""
    width, height = clip.width_px, clip.height_px

    def away(size: Size) -> float:
        return round(abs(math.log(size.width / size.height * height / width)), 9)

    def resized(size: Size) -> float:
        return abs(math.log(size.width * size.height / (width * height)))

    nearest = min(map(away, config.sizes))
    same_aspect = [size for size in config.sizes if away(size) == nearest]
    return sorted(same_aspect, key=lambda size: (-size.num_frames, resized(size)))


def select_frames(times_s: Sequence[float], num_frames: int, sample_fps: float | None) -> list[int]:
    """Indices of `num_frames` of the frames shown at `times_s`, evenly spaced in time, around the middle of them.

    With `sample_fps`, the frames nearest to times of that rate. Without it a step is the widest whole number of frames
    of their mean length: 65 frames, 9 wanted -> 0, 8, ..., 64. Where lengths vary, a frame that stands for more than a
    step may be taken twice; and of the selections whose longest step is 1.5 steps at most, or about as short as any
    has it, it is the one nearest to the middle. Raises TooShort where the frames do not fill it.
    """
    times = np.asarray(times_s, dtype=float)
    last, shown_s = len(times) - 1, float(times[-1] - times[0])
    frame_s = shown_s / last if last else 1.0
    constant = times[0] + frame_s * np.arange(last + 1)
    if np.abs(times - constant).max() <= ROUNDING_S:
        times = constant
    step_s = frame_s * max(1, last // max(1, num_frames - 1)) if sample_fps is None else 1 / sample_fps
    if sample_fps is not None and shown_s > last * step_s + ROUNDING_S:
        raise TooShort(
            f"clip has {1 / frame_s:.4g} frames a second, {sample_fps:g} wanted; lower precompute.sample_fps"
        )
    ends = np.append(times, times[-1] + frame_s)  # a target after the last frame is nearest to it, or to its end

    def nearest(first: NDArray[np.int64], offset_s: Any) -> NDArray[np.int64]:
        places = np.interp(ends[first] + offset_s, ends, np.arange(len(ends)))
        after: NDArray[np.int64] = np.rint(np.round(places - first, 4)).astype(np.int64)  # of halves the even one
        return first + after

    firsts = np.arange(last + 1)
    lasts = nearest(firsts, (num_frames - 1) * step_s)
    firsts, lasts = firsts[lasts <= last], lasts[lasts <= last]
    if last + 1 < num_frames or not firsts.size:
        remedy = "lower precompute.num_frames" + " or raise precompute.sample_fps" * (sample_fps is not None)
        raise TooShort(
            f"clip has {last + 1} frames in {shown_s + frame_s:.4g} s, {num_frames} frames {step_s:.4g} s apart need "
            f"{(num_frames - 1) * step_s + frame_s:.4g} s; {remedy}"
        )
    selections = nearest(firsts[:, None], step_s * np.arange(num_frames))
    longest = np.diff(times[selections], axis=1).max(axis=1, initial=0.0) / step_s
    even = longest <= max(1.5, longest.min() + 0.1)
    off_centre_s = np.abs((times[firsts] - times[0]) - (times[last] - times[lasts]))
    return [int(index) for index in selections[even][np.argmin(np.round(off_centre_s[even], 6))]]


def fit_frames(frames_FHWC: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Scale F x H x W x 3 frames until they cover height x width, and cut out the centre. Equal size: unchanged."""
    import cv2

    _, source_height, source_width, _ = frames_FHWC.shape
    if (source_height, source_width) == (height, width):
        return frames_FHWC
    scale = max(height / source_height, width / source_width)
    size = (max(width, round(source_width * scale)), max(height, round(source_height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    fitted = np.empty((len(frames_FHWC), height, width, 3), np.uint8)
    for target, frame in zip(fitted, frames_FHWC, strict=True):
        target[:] = cv2.resize(frame, size, interpolation=method)[top : top + height, left : left + width]
    return fitted
