"""Where the shots of a video begin: PySceneDetect's measure of change, and its adaptive rule up to both ends.

Frames are small; whoever decodes them hands them over one after another.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Detector = Literal["content", "adaptive"]
"""`content` compares a frame with the one before it, `adaptive` that difference with those around it."""

SHORT_SIDE_PX = 144
WINDOW = 2
"""Frames to either side with which `adaptive` compares, as PySceneDetect has it."""
MIN_CONTENT = 15.0
"""Change that a frame must show at least for `adaptive` to call it a cut; PySceneDetect's."""
ROUNDING_S = 1e-6  # times are floats: 1.3 - 0.7 may be less than 0.6


class ShotFinder:
    """Takes the frames of a video one by one and tells which of them begin shots, at most `lag` frames later.

    PySceneDetect's own thresholds are 27 for `content` (mean difference of HSV, 0 to 255) and 3 for `adaptive` (ratio).
    Its own `AdaptiveDetector` sees no cut after the first frame of a video and none before its last two, where clips
    that were cut carelessly have theirs; here a frame near an end is compared with the neighbours that it has.
    """

    def __init__(self, detector: Detector, threshold: float) -> None:
        from scenedetect import ContentDetector

        self.lag = 0 if detector == "content" else WINDOW
        self._threshold = threshold
        self._measure: Any = ContentDetector(min_scene_len=0)
        self._changes: deque[float] = deque(maxlen=2 * WINDOW + 1)
        self._seen = 0

    def add(self, picture_HWC: NDArray[np.uint8]) -> list[int]:
        """Take the next frame (BGR); the frames found to begin shots, ascending. The first frame of all is not told."""
        from scenedetect import FrameTimecode

        at = FrameTimecode(self._seen, fps=1.0)  # the number is handed through: no rate is involved
        self._measure.process_frame(at, picture_HWC)
        if self._seen:
            self._changes.append(float(self._measure._frame_score))  # as its own AdaptiveDetector takes it
        self._seen += 1
        if len(self._changes) <= self.lag:
            return []
        return self._judged(len(self._changes) - 1 - self.lag)

    def end(self) -> list[int]:
        """The frames found to begin shots among the last ones."""
        first = max(len(self._changes) - self.lag, 0)
        return [cut for place in range(first, len(self._changes)) for cut in self._judged(place)]

    def _judged(self, place: int) -> list[int]:
        """The frame whose change is at a place of the window, if it is a cut."""
        change = self._changes[place]
        if self.lag:
            around = [*self._changes][max(place - WINDOW, 0) : place + WINDOW + 1]
            mean = (sum(around) - change) / max(len(around) - 1, 1)
            cut = change >= MIN_CONTENT and change >= self._threshold * mean
        else:
            cut = change >= self._threshold
        return [self._seen - len(self._changes) + place] if cut else []


def joined(cuts: Iterable[int], times_s: Sequence[float], min_shot_s: float) -> list[int]:
    """The frames at which shots begin, the first is 0: a shot that would be shorter than `min_shot_s` is joined with
    the one after it, so only the last may be shorter.
    """
    shots = [0]
    for cut in cuts:
        if times_s[cut] - times_s[shots[-1]] >= min_shot_s - ROUNDING_S:
            shots.append(cut)
    return shots
