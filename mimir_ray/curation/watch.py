"""One pass over a video: its facts, its cuts, and the scores of the clips in it. Every frame is decoded once.

Frames come small out of the decoding process. Where cuts are looked for, a frame waits until the detector is sure.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mimir_ray.curation.config import CurationConfig, Limits
from mimir_ray.curation.meter import Meter
from mimir_ray.curation.metrics import Grey
from mimir_ray.curation.spans import Spans
from mimir_ray.video import Promise, ShotFinder, Shown, VideoError, VideoInfo, View, scan_video
from mimir_ray.video.shots import SHORT_SIDE_PX

GRACE_S = 60.0
"""Wall time that a pass may take on top of what the length of the video allows."""


@dataclass(frozen=True)
class Watched:
    """What a pass found out."""

    info: VideoInfo | None
    """None where the pass ended with the last clip, before the end of the video."""
    cuts: list[int]
    """Frames that begin shots, but for the first of all."""
    meter: Meter


def watch(
    path: str | Path,
    spans: Spans,
    finder: ShotFinder | None,
    config: CurationConfig,
    expect: Callable[[Promise], None] = lambda promise: None,
    *,
    meter: Meter | None = None,
    to_the_end: bool = True,
) -> Watched:
    """Watch a video, or of it what can be in a clip. `expect` gets what its header promises, and may raise. A `meter`
    that is given has what went by also where that ends in an error.

    Raises VideoError where a frame cannot be decoded, none comes for a while, or the limits are passed.
    """
    limits, began_s = config.limits, time.monotonic()
    views = [View("gray8", config.measures.short_side_px), *[View("bgr24", SHORT_SIDE_PX)] * (finder is not None)]
    meter, info, cuts_at = meter or Meter(config.measures), None, set[int]()
    waiting: deque[tuple[float, Grey]] = deque()

    def settle(behind: int) -> None:
        """Let the frames go by of which it is known whether they follow a cut."""
        while len(waiting) > behind:
            time_s, grey_HW = waiting.popleft()
            index = len(meter.times_s)
            cut = index in cuts_at
            meter.end(spans.ended(index, time_s, cut=cut))
            meter.add(time_s, grey_HW, spans.begins(index, time_s, cut=cut))

    for found in scan_video(path, views, stall_s=config.decode_timeout_s):
        match found:
            case Promise():
                expect(found)
            case Shown(time_s=time_s, pictures=(grey_HW, *others)):
                check_length(len(meter.times_s) + len(waiting) + 1, time_s, limits)
                check_pace(time.monotonic() - began_s, time_s, limits)
                waiting.append((time_s, grey_HW))
                if finder is not None:
                    cuts_at.update(finder.add(others[0]))
                settle(finder.lag if finder is not None else 0)
                if spans.over and not to_the_end:
                    break
            case VideoInfo():
                check_length(found.frames, found.duration_s, limits)
                info = found
    if finder is not None:
        cuts_at.update(finder.end())
    settle(0)
    meter.end_all()
    return Watched(info, sorted(cuts_at), meter)


def check_pace(took_s: float, time_s: float, limits: Limits) -> None:
    """Raise VideoError where a pass that has come to `time_s` of a video takes too long."""
    allowed_s = GRACE_S + limits.seconds_per_second * time_s
    if took_s > allowed_s:
        raise VideoError(
            f"took more than {allowed_s:.0f} s up to {time_s:.1f} s of it; {GRACE_S:.0f} s and "
            f"{limits.seconds_per_second:g} s for each second are allowed (limits.seconds_per_second)"
        )


def check_length(frames: int, duration_s: float, limits: Limits) -> None:
    """Raise VideoError for a video that is longer than is worked on."""
    for what, value, limit in (
        (f"{duration_s:.1f} s", duration_s, "max_duration_s"),
        (f"{frames:,} frames", frames, "max_frames"),
    ):
        if value > getattr(limits, limit):
            raise VideoError(f"has {what}, at most {getattr(limits, limit):,} are taken (limits.{limit})")
