"""Frames and shots of any video file, and cuts of it, made in a child process that may crash or hang without harm.

decord reads where it is exact, PyAV where it is not, or where decord is missing, fails, crashes or takes too long.
The child lives across clips, so a read costs a pipe and no process start.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from mimir_ray.video.cut import Mode
from mimir_ray.video.decode import FramesFHWC
from mimir_ray.video.errors import VideoError
from mimir_ray.video.probe import VideoInfo
from mimir_ray.video.shots import SHORT_SIDE_PX, Detector
from mimir_ray.video.write import CRF, PRESET, whole_file

Decoder = Literal["decord", "pyav"]

TIMEOUT_S = 60.0
MEMORY_LIMIT_BYTES = 4 << 30
READS_PER_CHILD = 1000  # decord's memory grows
START_TIMEOUT_S = 60.0
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Frames:
    """`frames` F H W 3, uint8 RGB, one for each index that was asked for, and the decoder that read them."""

    frames: FramesFHWC
    decoder: Decoder


def read_frames(
    path: str | Path,
    indices: Sequence[int],
    *,
    span: tuple[int, int] | None = None,
    timeout_s: float = TIMEOUT_S,
    short_side_px: int | None = None,
    decord: bool = True,
) -> Frames:
    """The frames at `indices` (display order, 0 is the first; any order, repeats allowed).

    With `span`, a clip's first frame in the file and the first one after it, indices count from the clip's first frame.

    Frames are upright, at their stored size or, with `short_side_px`, shrunk so that the short side is at most that.
    Each decoder that is tried has `timeout_s` of wall clock. `decord=False` reads with PyAV alone.
    Raises VideoError when no decoder can deliver exactly the frames that were asked for.
    """
    indices = [index + span[0] for index in indices] if span else indices
    wanted = sorted(set(indices))
    if not wanted or wanted[0] < 0:
        raise VideoError(f"frames {list(indices)[:5]} were asked for; give at least one index, none below 0")
    request = {"job": "read", "path": _absolute(path), "indices": wanted, "short_side_px": short_side_px}
    frames_FHWC, decoder = _read(request, timeout_s, decord)
    if wanted != list(indices):
        place = {index: i for i, index in enumerate(wanted)}
        frames_FHWC = frames_FHWC[[place[index] for index in indices]]
    return Frames(frames_FHWC, decoder)


def read_info(path: str | Path, *, timeout_s: float = TIMEOUT_S) -> VideoInfo:
    """`probe` in the child, for files that nobody vouches for. Raises VideoError."""
    facts = _ask({"job": "probe", "path": _absolute(path)}, timeout_s)["info"]
    return VideoInfo(**{**facts, "times_s": tuple(facts["times_s"])})


def read_shots(
    path: str | Path,
    *,
    detector: Detector,
    threshold: float,
    min_shot_s: float,
    short_side_px: int = SHORT_SIDE_PX,
    timeout_s: float,
) -> list[int]:
    """`find_shots` in the child: the frames at which shots begin, the first is 0. Decodes the whole video once.

    Raises VideoError when a frame cannot be decoded, or all of them not within `timeout_s` of wall clock.
    """
    how = {"detector": detector, "threshold": threshold, "min_shot_s": min_shot_s, "short_side_px": short_side_px}
    shots: list[int] = _ask({"job": "shots", "path": _absolute(path), "how": how}, timeout_s)["shots"]
    return shots


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
    """`cut` in the child: write frames [start_frame, end_frame) to the mp4 `out`; return the span that was written.

    `out` appears when it is complete; the same file, span and options give the same bytes.
    Raises VideoError when that cannot be done, or not within `timeout_s` of wall clock.
    """
    with whole_file(_absolute(out)) as partial:
        how = {"start_frame": start_frame, "end_frame": end_frame, "mode": mode, "crf": crf, "preset": preset}
        request = {"job": "cut", "path": _absolute(path), "out": str(partial), "how": how}
        start, end = _ask(request, timeout_s)["span"]
    return start, end


def _ask(request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    with _lock:
        reply, _ = _child().ask(request, timeout_s)
    return reply


def _read(request: dict[str, Any], timeout_s: float, decord: bool) -> tuple[FramesFHWC, Decoder]:
    with _lock:
        try:
            reply, frames_FHWC = _child().ask({**request, "decord": decord}, timeout_s)
        except _ChildLostError:
            if not decord:
                raise
            reply, frames_FHWC = _child().ask({**request, "decord": False}, timeout_s)
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
        self.reads = 0
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
        self._answers = _TimedPipe(self._process.stdout)

    @property
    def usable(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None and self.reads < READS_PER_CHILD

    def ask(self, request: dict[str, Any], timeout_s: float) -> tuple[dict[str, Any], FramesFHWC]:
        """Send one request, wait for its answer. Raises _ChildLostError, or VideoError for an answer that says so."""
        self.reads += 1
        try:
            if self.reads == 1:
                self._answers.deadline = time.monotonic() + START_TIMEOUT_S
                self._answers.line()  # it is ready
            self._answers.deadline = time.monotonic() + timeout_s
            self._requests.write(json.dumps({**request, "timeout_s": timeout_s}).encode() + b"\n")
            reply: dict[str, Any] = json.loads(self._answers.line())
            frames_FHWC: FramesFHWC = np.empty(reply.get("shape", (0, 0, 0, 3)), np.uint8)
            if frames_FHWC.size:
                self._answers.fill(frames_FHWC.data.cast("B"))
        except TimeoutError:
            self.close()
            raise _ChildLostError(f"decoding was stopped after its limit of {timeout_s:g} s") from None
        except (EOFError, BrokenPipeError):
            raise _ChildLostError(f"the decoder crashed ({self.close()}) on this file") from None
        except BaseException:  # an interrupt leaves half an answer in the pipe
            self.close()
            raise
        if "error" in reply:
            raise VideoError(reply["error"])
        return reply, frames_FHWC

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


_lock = threading.Lock()
_current: _Child | None = None


def _child() -> _Child:
    """The process-wide child; call with `_lock` held."""
    global _current
    if _current is None or not _current.usable:
        if _current is not None:
            _current.close()
        _current = _Child()
    return _current
