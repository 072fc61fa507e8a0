"""At which size the model sees a clip, which frames of it, and how they are brought to that size."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mimir_ray.precompute.config import PrecomputeConfig, Size
from mimir_ray.records import Clip


class TooShort(Exception):
    """The clip has fewer frames than the selection needs; the message is the reject's reason."""


def choose_size(clip: Clip, config: PrecomputeConfig) -> tuple[Size, list[int]]:
    """The one size that a clip is encoded at, and the indices of its frames. Raises TooShort where it fills none."""
    *others, last = nearest_sizes(clip, config)
    for size in others:
        try:
            return size, select_frames(clip.frames, clip.fps, size.num_frames, config.sample_fps)
        except TooShort:
            continue
    return last, select_frames(clip.frames, clip.fps, last.num_frames, config.sample_fps)


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


def select_frames(frames: int, fps: float, num_frames: int, sample_fps: float | None) -> list[int]:
    """Indices of `num_frames` evenly spaced frames of a clip of `frames` frames, around its middle.

    Without `sample_fps` the widest integer stride that the clip allows: 65 frames, 9 wanted -> 0, 8, ..., 64.
    With it, the frames nearest to that rate. Raises TooShort where the clip does not hold them.
    """
    stride = float(max(1, (frames - 1) // max(1, num_frames - 1))) if sample_fps is None else fps / sample_fps
    if stride < 1:
        raise TooShort(f"clip has {fps:g} frames a second, {sample_fps:g} wanted; lower precompute.sample_fps")
    needed = round((num_frames - 1) * stride) + 1
    if frames < needed:
        raise TooShort(
            f"clip has {frames} frames, {num_frames} at stride {stride:g} need {needed}; "
            "lower precompute.num_frames or raise precompute.sample_fps"
        )
    first = (frames - needed) // 2
    return [first + round(i * stride) for i in range(num_frames)]


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
