"""The process that decodes: a child that may crash or hang without harm, and lives across requests."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mimir_ray.video.errors import VideoError

Answer = tuple[dict[str, Any], list[NDArray[np.uint8]]]
"""What the child says, and the pictures that come with it."""

MEMORY_LIMIT_BYTES = 4 << 30
DECORD_READS_PER_CHILD = 1000  # its memory grows
START_TIMEOUT_S = 60.0
PIPE_BYTES = 1 << 20  # the child goes on to decode while its last frames are looked at
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class ChildLostError(VideoError):
    """The decoding process crashed or was ended because it took too long."""


class Child:
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

        Raises ChildLostError, or VideoError for an answer that says so.
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
            raise ChildLostError(f"decoding was stopped after its limit of {timeout_s:g} s") from None
        except (EOFError, BrokenPipeError):
            raise ChildLostError(f"the decoder crashed ({self.close()}) on this file") from None
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


class Role:
    """What this process has one child for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._child: Child | None = None

    def child(self) -> Child:
        """The child; call with `lock` held."""
        if self._child is None or not self._child.usable:
            if self._child is not None:
                self._child.close()
            self._child = Child()
        return self._child


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
