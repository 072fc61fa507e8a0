"""Frames and shots of any video file, and cuts of it, made in a child process that may crash or hang without harm.

PyAV reads spans. decord reads whole files where it is exact; PyAV those where it is not, or where decord is missing,
fails, crashes or takes too long.
The child lives across clips, so a read costs a pipe and no process start.
"""

import contextlib
import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mimir_ray.video.cut import Cut, Mode, Timing
from mimir_ray.video.decode import FramesFHWC
from mimir_ray.video.errors import VideoError
from mimir_ray.video.probe import VideoInfo
from mimir_ray.video.scan import Promise, Shown, View
from mimir_ray.video.shots import SHORT_SIDE_PX, Detector, ShotFinder, joined
from mimir_ray.video.write import CRF, PRESET, whole_file

Decoder = Literal["decord", "pyav"]
Answer = tuple[dict[str, Any], list[NDArray[np.uint8]]]
"""What the child says, and the pictures that come with it."""

TIMEOUT_S = 60.0
MEMORY_LIMIT_BYTES = 4 << 30
SECONDS_PER_SECOND = 20.0
DECORD_READS_PER_CHILD = 1000  # its memory grows
START_TIMEOUT_S = 60.0
PIPE_BYTES = 1 << 20  # the child goes on to decode while its last frames are looked at
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


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
    except _ChildLostError:
        if not decord:
            raise
        reply, (frames_FHWC,) = _ask({**request, "decord": False}, timeout_s)
    return frames_FHWC, reply["decoder"]


def _absolute(path: str | Path) -> str:
    return os.path.abspath(path)


class _ChildLostError(VideoError):
    """The decoding process crashed or was ended because it took too long."""


class _Child:
    """One decoding process, started at once and good until it is lost."""

    def __init__(self) -> None:
        paths = [str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.owner = os.getpid()
        self.decord_reads = 0
        self._ready = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mimir_ray.video.child", str(MEMORY_LIMIT_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        with contextlib.suppress(AttributeError, OSError):  # not everywhere, and the system sets a limit
            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._answers = _TimedPipe(self._process.stdout)

    @property
    def usable(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None and self.decord_reads < DECORD_READS_PER_CHILD

    def ask(self, request: dict[str, Any], timeout_s: float) -> Iterator[Answer]:
        """Send one request and yield its answers, each of which has `timeout_s`; take as many as there are.

        Raises _ChildLostError, or VideoError for an answer that says so.
        """
        self.decord_reads += request.get("decord", False)
        whole = False
        try:
            if not self._ready:
                self._answers.deadline = time.monotonic() + START_TIMEOUT_S
                self._answers.line()
                self._ready = True
            self._requests.write(json.dumps({**request, "timeout_s": timeout_s}).encode() + b"\n")
            while not whole:
                self._answers.deadline = time.monotonic() + timeout_s
                reply: dict[str, Any] = json.loads(self._answers.line())
                pictures = [np.empty(shape, np.uint8) for shape in reply.pop("shapes")]
                for picture in pictures:
                    self._answers.fill(picture.data.cast("B"))
                whole = "time_s" not in reply and "promise" not in reply
                if "error" in reply:
                    raise VideoError(reply["error"])
                yield reply, pictures
        except TimeoutError:
            raise _ChildLostError(f"decoding was stopped after its limit of {timeout_s:g} s") from None
        except (EOFError, BrokenPipeError):
            raise _ChildLostError(f"the decoder crashed ({self.close()}) on this file") from None
        finally:
            if not whole:  # an interrupt, or who stops listening, leaves half an answer in the pipe
                self.close()

    def close(self) -> str:
        """End the process and say how it ended."""
        if self.owner != os.getpid():  # inherited through a fork: it is the parent's
            return "left"
        try:
            code = self._process.wait(0.2 if self._process.poll() is None else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._requests.close()
        self._answers.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class _TimedPipe:
    """Reads a pipe until `deadline` (monotonic clock): TimeoutError after it, EOFError when the other end is gone."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.deadline = 0.0
        self._pipe = pipe
        self._rest = bytearray()
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe, selectors.EVENT_READ)

    def line(self) -> bytes:
        while (end := self._rest.find(b"\n")) < 0:
            self._wait()
            chunk = os.read(self._pipe.fileno(), 1 << 16)
            if not chunk:
                raise EOFError
            self._rest += chunk
        found = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return found

    def fill(self, target: memoryview) -> None:
        taken = min(len(self._rest), len(target))
        target[:taken] = self._rest[:taken]
        del self._rest[:taken]
        while taken < len(target):
            self._wait()
            count = os.readv(self._pipe.fileno(), [target[taken:]])
            if not count:
                raise EOFError
            taken += count

    def close(self) -> None:
        self._selector.close()
        self._pipe.close()

    def _wait(self) -> None:
        if not self._selector.select(max(0.0, self.deadline - time.monotonic())):
            raise TimeoutError


class _Role:
    """What this process has one child for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._child: _Child | None = None

    def child(self) -> _Child:
        """The child; call with `lock` held."""
        if self._child is None or not self._child.usable:
            if self._child is not None:
                self._child.close()
            self._child = _Child()
        return self._child


_reader, _scanner = _Role(), _Role()
