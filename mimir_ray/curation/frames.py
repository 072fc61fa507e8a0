"""Frames of a clip, read from the video that it is a span of."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mimir_ray.dataflow import Row
from mimir_ray.video import allowed_s, read_frames


def clip_frames(
    path: str,
    clip: Row,
    indices: Sequence[int],
    *,
    timeout_s: float,
    seconds_per_second: float,
    short_side_px: int | None = None,
) -> NDArray[np.uint8]:
    """F H W 3 of a clip (columns of `clips`) whose video is at the local `path`; indices count from its first frame.

    A clip that begins late has `seconds_per_second` more time for each second before it. Raises VideoError.
    """
    first, start_s = clip["first_frame"], clip["start_s"]
    return read_frames(
        path,
        indices,
        span=(first, first + clip["frames"]),
        shown_s=(start_s, start_s + clip["times_s"][-1]),
        timeout_s=allowed_s(timeout_s, start_s, seconds_per_second),
        short_side_px=short_side_px,
    ).frames
