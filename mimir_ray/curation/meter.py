"""Scores of clips while their video goes by: frames are looked at once and not held.

What is looked at is what `metrics.sample` chooses when a clip is known as a whole. So a frame's share of black and its
brightness are kept as numbers, and optical flow is measured as its steps come by, for every place at which a clip may
begin.
"""

from collections.abc import Iterable

import numpy as np

from mimir_ray.curation.config import Measures
from mimir_ray.curation.metrics import TIME_TOLERANCE_S, Grey, Scores, black_pixels, flow_magnitude, sample

Pair = tuple[int, int]


class Track:
    """The steps of motion from a frame on at which a clip begins."""

    def __init__(self, index: int, time_s: float, grey_HW: Grey, clips: int, measures: Measures) -> None:
        self.index, self.time_s, self.clips = index, time_s, clips
        self._measures = measures
        self._from = index, grey_HW
        self._last = index, time_s, grey_HW
        self._tick = 1
        self.flows: dict[Pair, float] = {}
        """Magnitudes by the frames that they lie between."""

    def add(self, index: int, time_s: float, grey_HW: Grey) -> None:
        """Take the next frame. What was shown at a tick is known when the frame after it comes."""
        passed = False
        while self._tick_s() + TIME_TOLERANCE_S < time_s - self.time_s:
            self._tick += 1
            passed = True
        if passed:
            self._measure()
            self._from = self._last[0], self._last[2]
        self._last = index, time_s, grey_HW

    def end(self) -> None:
        """One of the clips that begin here ended with the last frame that was added."""
        _, time_s, _ = self._last
        still_first = self._from[0] == self.index  # then a clip's two ends are all there is, as `sample` has it
        if still_first or self._tick_s() <= time_s - self.time_s + TIME_TOLERANCE_S:
            self._measure()
        self.clips -= 1

    def _tick_s(self) -> float:
        return self._tick / self._measures.motion_fps

    def _measure(self) -> None:
        first, before_HW = self._from
        index, _, grey_HW = self._last
        if index > first:
            self.flows[first, index] = flow_magnitude(before_HW, grey_HW, self._measures.farneback)


class Meter:
    """Takes the frames of a video one by one, and scores the clips in it when they are known.

    A clip can be scored if a track was begun at its first frame, and not ended before its last one.
    """

    def __init__(self, measures: Measures) -> None:
        import cv2

        cv2.setNumThreads(1)  # there is a task for every core
        self._measures = measures
        self._running: list[Track] = []
        self._flows: dict[int, dict[Pair, float]] = {}
        self._black: list[int] = []
        self._sums: list[int] = []
        self._pixels = 1
        self.times_s: list[float] = []

    def add(self, time_s: float, grey_HW: Grey, begins: int) -> None:
        """Take the next frame, at which so many clips may begin."""
        index = len(self.times_s)
        self.times_s.append(time_s)
        self._black.append(int(black_pixels(grey_HW, self._measures.black_level)))
        self._sums.append(int(grey_HW.sum(dtype=np.int64)))
        self._pixels = grey_HW.size
        for track in self._running:
            track.add(index, time_s, grey_HW)
        if begins:
            track = Track(index, time_s, grey_HW, begins, self._measures)
            self._flows[index] = track.flows
            self._running.append(track)

    def end(self, begun: Iterable[int]) -> None:
        """Clips that began at these frames ended with the last one, or before it."""
        tracks = {track.index: track for track in self._running}
        for first in begun:
            tracks[first].end()
        self._running = [track for track in self._running if track.clips]

    def end_all(self) -> None:
        """The last frame was the last of all."""
        self.end([track.index for track in self._running for _ in range(track.clips)])

    def scores(self, first: int, end: int) -> Scores:
        """The scores of the clip of frames [first, end)."""
        start_s = self.times_s[first]
        sampling = sample([time_s - start_s for time_s in self.times_s[first:end]], self._measures)
        looked_at = [first + index for index in sampling.quality]
        pixels = len(looked_at) * self._pixels
        black = [self._black[index] for index in looked_at]
        flows = [self._flows[first][first + a, first + b] for a, b in sampling.motion]
        return Scores(
            motion=sum(flows) / len(flows) if flows else 0.0,
            black_area=sum(black) / pixels,
            brightness=sum(self._sums[index] for index in looked_at) / (255 * pixels),
            black_frame_rate=sum(count >= self._measures.black_frame_area * self._pixels for count in black)
            / len(looked_at),
        )
