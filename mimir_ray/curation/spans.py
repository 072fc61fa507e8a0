"""Which spans of a video become clips: told while its frames go by, so that they can be scored on the way."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from mimir_ray.curation.config import Split
from mimir_ray.video.shots import ROUNDING_S

Span = tuple[int, int]
"""First frame of a clip, and the first one after it."""


class Spans(Protocol):
    """Takes frame after frame of a video and tells where clips may begin and end."""

    def begins(self, index: int, time_s: float, *, cut: bool) -> int:
        """How many clips may begin at a frame, which follows a cut or not."""

    def ended(self, index: int, time_s: float, *, cut: bool) -> list[int]:
        """The first frames of clips that have ended before this frame; asked before `begins`."""

    @property
    def over(self) -> bool:
        """Whether no clip can come any more."""


class ShotSpans:
    """Clips are shots: long ones in pieces, short ones left out."""

    over = False

    def __init__(self, split: Split) -> None:
        self._split = split
        self._latest_s = -math.inf
        self._running: dict[int, float] = {}

    def ended(self, index: int, time_s: float, *, cut: bool) -> list[int]:
        longest_s = self._split.max_clip_s + self._split.min_clip_s
        ended = [first for first, first_s in self._running.items() if cut or time_s > first_s + longest_s + ROUNDING_S]
        for first in ended:
            del self._running[first]
        return ended

    def begins(self, index: int, time_s: float, *, cut: bool) -> int:
        begins = cut or index == 0 or time_s >= self._latest_s + self._split.stride_s - ROUNDING_S
        if begins:
            self._latest_s = self._running[index] = time_s
        return int(begins)


class KnownSpans:
    """Clips are known before, by frames or, with `in_seconds`, by times, their order given.

    A clip's frames are those that begin in its span. One without any is told to have none.
    """

    def __init__(self, wanted: Sequence[tuple[float, float]], *, in_seconds: bool) -> None:
        self._wanted, self._in_seconds = wanted, in_seconds
        self._waiting = sorted(range(len(wanted)), key=lambda place: wanted[place])[::-1]
        self._running: dict[int, int] = {}
        self._found: dict[int, Span] = {}

    @property
    def over(self) -> bool:
        return not self._waiting and not self._running

    def ended(self, index: int, time_s: float, *, cut: bool) -> list[int]:
        at = self._at(index, time_s)
        ended = [place for place in self._running if at >= self._wanted[place][1]]
        firsts = [self._running.pop(place) for place in ended]
        self._found |= {place: (first, index) for place, first in zip(ended, firsts, strict=True)}
        return firsts

    def begins(self, index: int, time_s: float, *, cut: bool) -> int:
        at, before = self._at(index, time_s), len(self._running)
        while self._waiting and at >= self._wanted[self._waiting[-1]][0]:
            place = self._waiting.pop()
            if at < self._wanted[place][1]:
                self._running[place] = index
        return len(self._running) - before

    def found(self, frames: int) -> list[Span | None]:
        """The spans in the order given, of a video of so many frames; None for one without a frame."""
        found = self._found | {place: (first, frames) for place, first in self._running.items()}
        return [found.get(place) for place in range(len(self._wanted))]

    def _at(self, index: int, time_s: float) -> float:
        return time_s + ROUNDING_S if self._in_seconds else index


def shot_spans(shots: Sequence[int], times_s: Sequence[float], split: Split) -> list[Span]:
    """Clips of a video whose shots begin at these frames; `times_s` has the end of the video after its last frame."""
    found: list[Span] = []
    for first, end in pairwise([*shots, len(times_s) - 1]):
        start = first
        while start < end:
            rest_s = times_s[end] - times_s[start]
            if rest_s < split.min_clip_s - ROUNDING_S:
                break
            if rest_s <= split.max_clip_s + split.min_clip_s + ROUNDING_S:  # no rest too short to be a clip
                found.append((start, end))
                break
            found.append((start, _frame_at(times_s, start, end, times_s[start] + split.max_clip_s)))
            start = _frame_at(times_s, start, end, times_s[start] + split.stride_s)
    return found


def _frame_at(times_s: Sequence[float], start: int, end: int, time_s: float) -> int:
    """The first frame of start + 1 to end that is not shown before `time_s`."""
    return next((index for index in range(start + 1, end) if times_s[index] >= time_s - ROUNDING_S), end)
