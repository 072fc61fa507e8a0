"""Frames and shots of any video file, and cuts of it, made in a child process that may crash or hang without harm.

PyAV reads spans. decord reads whole files where it is exact; PyAV those where it is not, or where decord is missing,
fails, crashes or takes too long.
The child lives across clips, so a read costs a pipe and no process start.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from mimir_ray.video.cut import Cut, Mode, Timing
from mimir_ray.video.decode import FramesFHWC
from mimir_ray.video.errors import VideoError
from mimir_ray.video.probe import VideoInfo
from mimir_ray.video.process import Answer, ChildLostError, Role
from mimir_ray.video.scan import Promise, Shown, View
from mimir_ray.video.shots import SHORT_SIDE_PX, Detector, ShotFinder, joined
from mimir_ray.video.write import CRF, PRESET, whole_file

Decoder = Literal["decord", "pyav"]

TIMEOUT_S = 60.0
SECONDS_PER_SECOND = 20.0


@dataclass(frozen=True)
class Frames:
    """`frames` F H W 3, uint8 RGB, one for each index that was asked for, and the decoder that read them."""

    frames: FramesFHWC
    decoder: Decoder


def allowed_s(base_s: float, start_s: float, seconds_per_second: float = SECONDS_PER_SECOND) -> float:
    """Wall time, in seconds, for a read that begins `start_s` into a video.

    Some videos can only be read from their start on, so one that begins late is waited for longer.
    """
    return base_s + seconds_per_second * start_s


def read_frames(
    path: str | Path,
    indices: Sequence[int],
    *,
    span: tuple[int, int] | None = None,
    shown_s: tuple[float, float] | None = None,
    timeout_s: float = TIMEOUT_S,
    short_side_px: int | None = None,
    decord: bool = True,
) -> Frames:
    """The frames at `indices` (display order, 0 is the first; any order, repeats allowed).

    With `span`, a clip's first frame in the file and the first one after it, indices count from the clip's first frame,
    and PyAV reads. Spans of a file that are asked for in ascending order are read forward, without a seek to what has
    just been passed. With `shown_s`, when the clip's first and its last frame are shown, from 0 for the file's first,
    they are found also where a decoder shows nothing of a packet before them.

    Frames are upright, at their stored size or, with `short_side_px`, shrunk so that the short side is at most that.
    Each decoder that is tried has `timeout_s` of wall clock. `decord=False` reads with PyAV alone.
    Raises VideoError when no decoder can deliver exactly the frames that were asked for.
    """
    if not len(indices) or min(indices) < 0:
        raise VideoError(f"frames {list(indices)[:5]} were asked for; give at least one index, none below 0")
    if span and span[0] + max(indices) >= span[1]:
        raise VideoError(f"frame {max(indices)} was asked for; the clip has frames 0 to {span[1] - span[0] - 1}")
    indices = [index + span[0] for index in indices] if span else indices
    wanted = sorted(set(indices))
    request = {
        "job": "read",
        "path": _absolute(path),
        "indices": [int(index) for index in wanted],
        "span": span,
        "shown_s": shown_s,
        "short_side_px": short_side_px,
    }
    frames_FHWC, decoder = _read(request, timeout_s, decord and not span)
    if wanted != list(indices):
        place = {index: i for i, index in enumerate(wanted)}
        frames_FHWC = frames_FHWC[[place[index] for index in indices]]
    return Frames(frames_FHWC, decoder)


def read_info(path: str | Path, *, timeout_s: float = TIMEOUT_S) -> VideoInfo:
    """`probe` in the child, for files that nobody vouches for. Raises VideoError."""
    return _info(_ask({"job": "probe", "path": _absolute(path)}, timeout_s)[0])


def scan_video(
    path: str | Path, views: Sequence[View], *, stall_s: float = TIMEOUT_S
) -> Iterator[Promise | Shown | VideoInfo]:
    """`scan` in a child: a promise, every frame once in these views, and in the end the facts.

    Whoever stops before the end loses nothing but the child. One file of a process is scanned at a time.
    Raises VideoError, also when no frame comes for `stall_s` of wall clock.
    """
    request = {"job": "scan", "path": _absolute(path), "views": [astuple(view) for view in views]}
    with _scanner.lock:
        for reply, pictures in _scanner.child().ask(request, stall_s):
            if "time_s" in reply:
                yield Shown(reply["time_s"], tuple(pictures))
            elif "promise" in reply:
                yield Promise(**reply["promise"])
            else:
                yield _info(reply)
                return


def read_shots(
    path: str | Path,
    *,
    detector: Detector,
    threshold: float,
    min_shot_s: float,
    short_side_px: int = SHORT_SIDE_PX,
    timeout_s: float,
) -> list[int]:
    """The frames at which shots begin, ascending; the first is 0. Decodes the whole video once.

    Frames are compared with a short side of at most `short_side_px`. A shot that would be shorter than `min_shot_s` is
    joined with the one after it, so only the last may be shorter.
    Raises VideoError when a frame cannot be decoded, or none comes for `timeout_s` of wall clock.
    """
    finder, cuts, times_s = ShotFinder(detector, threshold), [], []
    for found in scan_video(path, [View("bgr24", short_side_px)], stall_s=timeout_s):
        if isinstance(found, Shown):
            times_s.append(found.time_s)
            cuts += finder.add(found.pictures[0])
    return joined([*cuts, *finder.end()], times_s, min_shot_s)


def cut_clip(
    path: str | Path,
    out: str | Path,
    start_frame: int,
    end_frame: int,
    *,
    mode: Mode,
    crf: int = CRF,
    preset: str = PRESET,
    timeout_s: float,
) -> tuple[int, int]:
    """`make_clip` of a file that is probed for its times; return the span that was written."""
    span = start_frame, end_frame
    made = make_clip(path, out, span, None, mode=mode, crf=crf, preset=preset, timeout_s=timeout_s)
    return made.start_frame, made.end_frame


def make_clip(
    path: str | Path,
    out: str | Path,
    span: tuple[int, int],
    timing: Timing | None,
    *,
    mode: Mode,
    crf: int = CRF,
    preset: str = PRESET,
    timeout_s: float,
) -> Cut:
    """`cut` in the child: write a span, first frame and first one after it, to the mp4 `out`; say what was written.

    Without its `timing` the file is probed, and some are decoded whole for that.
    `out` appears when it is complete; the same file, span, timing and options give the same bytes.
    Raises VideoError when that cannot be done, or not within `timeout_s` of wall clock.
    """
    with whole_file(_absolute(out)) as partial:
        request = {
            "job": "cut",
            "path": _absolute(path),
            "out": str(partial),
            "span": span,
            "timing": timing and asdict(timing),
            "how": {"mode": mode, "crf": crf, "preset": preset},
        }
        return Cut(**_ask(request, timeout_s)[0]["cut"])


def _info(reply: dict[str, Any]) -> VideoInfo:
    return VideoInfo(**{**reply["info"], "times_s": tuple(reply["info"]["times_s"])})


def _ask(request: dict[str, Any], timeout_s: float) -> Answer:
    with _reader.lock:
        return next(_reader.child().ask(request, timeout_s))


def _read(request: dict[str, Any], timeout_s: float, decord: bool) -> tuple[FramesFHWC, Decoder]:
    try:
        reply, (frames_FHWC,) = _ask({**request, "decord": decord}, timeout_s)
    except ChildLostError:
        if not decord:
            raise
        reply, (frames_FHWC,) = _ask({**request, "decord": False}, timeout_s)
    return frames_FHWC, reply["decoder"]


def _absolute(path: str | Path) -> str:
    return os.path.abspath(path)


_reader, _scanner = Role(), Role()
