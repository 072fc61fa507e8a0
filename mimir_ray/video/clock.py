"""When frames are shown. A file's own clock may stand still, be missing, or start again in the middle."""

from fractions import Fraction

import av

from mimir_ray.video.source import formats

LONGEST_STEP_S = 10
"""A longer step in a stream without an index is a new beginning of its clock, as FFmpeg takes it."""


class Clock:
    """Gives the frames of a stream their times, one after another in the order in which they are shown, from 0 on.

    A step backwards is as long as the frame before it lasts, so joined recordings follow each other. Frames that share
    a time are a unit apart: times ascend.
    """

    def __init__(self, container: "av.container.InputContainer", stream: "av.VideoStream") -> None:
        self.base = stream.time_base or Fraction(1, 1000)
        """Seconds of a unit of the stream's times."""
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self._period = 1 / rate / self.base
        self._longest = LONGEST_STEP_S / self.base if formats(container) & {"mpegts", "mpeg"} else None
        self._in_order_of_decoding = "avi" in formats(container)
        self.first: int | None = None
        """The time of the first frame in the stream's units, if it has one."""
        self._pts: int | None = None
        self._lasts = Fraction(0)
        self._ticks: Fraction | None = None
        self._ahead = Fraction(0)

    def shown_s(self, frame: av.VideoFrame) -> float:
        """`time_s` of the next frame. An AVI only counts packets as they are decoded, one after another to be shown."""
        if not self._in_order_of_decoding:
            return self.time_s(frame.pts, frame.duration)
        if frame.dts is None or self._pts is None:  # the last ones have no packet of their own
            return self.time_s(frame.dts, int(self._lasts))
        return self.time_s(frame.dts, frame.dts - self._pts)

    def time_s(self, pts: int | None, duration: int | None) -> float:
        """When the next frame is shown, from its time and its duration in the stream's units, as far as it has any."""
        if self._ticks is None:
            self._ticks, self.first = Fraction(0), pts
        else:
            step = Fraction(-1) if pts is None or self._pts is None else Fraction(pts - self._pts)
            if step < 0 or (self._longest is not None and step > self._longest):
                step, self._ahead = self._lasts, Fraction(0)
            elif step <= self._ahead:  # at the same time as the one before it: it is the one that is seen
                step, self._ahead = Fraction(1), self._ahead + 1 - step
            else:
                step, self._ahead = step - self._ahead, Fraction(0)
            self._ticks += step
        self._pts = pts
        self._lasts = Fraction(duration) if duration else self._period
        return float(self._ticks * self.base)

    @property
    def end_s(self) -> float:
        """When the last frame ends."""
        return float(((self._ticks or 0) + self._lasts) * self.base)

    @property
    def period_s(self) -> float:
        """How long a frame lasts that does not say it."""
        return float(self._period * self.base)
