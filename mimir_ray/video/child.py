"""The decoding process: `python -m mimir_ray.video.child`. It serves `mimir_ray.video.read` until its input closes.

A request is one line of JSON; an answer is one line of JSON, followed by the frames' bytes where there are any. A scan
has an answer a frame. The kernel's alarm ends the process when an answer takes too long, even when the parent is gone
and the decoder spins.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mimir_ray.video.cut import Timing, cut, timing_of
from mimir_ray.video.decode import Cursor, FramesFHWC, decord_suits, fit, no_such_frame, with_decord
from mimir_ray.video.errors import VideoError
from mimir_ray.video.probe import Index, VideoInfo, index, probe
from mimir_ray.video.scan import Promise, Shown, View, scan

ALARM_GRACE_S = 2.0  # the parent ends the child first; this is for a parent that died


def main() -> None:
    """Answer requests from standard input on what was standard output; decoders' own chatter goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with contextlib.suppress(ValueError, OSError):
        limit = int(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + ALARM_GRACE_S)
        answer(answers, request)
        signal.setitimer(signal.ITIMER_REAL, 0)


def answer(answers: IO[bytes], request: dict[str, Any]) -> None:
    """Serve one request and write its answer. Only VideoError and lack of memory are answers; the rest is a crash."""
    try:
        for reply, arrays in served(request):
            send(answers, reply, arrays)
            signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + ALARM_GRACE_S)
    except VideoError as error:
        send(answers, {"error": str(error)})
    except MemoryError:
        send(answers, {"error": "needs more memory than a decoder may take"})


Reply = tuple[dict[str, Any], Sequence[NDArray[np.uint8]]]


def served(request: dict[str, Any]) -> Iterator[Reply]:
    """The answer, or the answers, to a request."""
    path, modified = request["path"], mtime_ns(request["path"])
    match request["job"]:
        case "probe":
            yield {"info": asdict(facts(path, modified))}, ()
        case "scan":
            yield from scanned(path, [View(*view) for view in request["views"]])
        case "cut":
            given, span = request["timing"], (request["span"][0], request["span"][1])
            timing = Timing(**given) if given else timing_of(facts(path, modified), *span)
            how = {**request["how"], "cursor": cursor(path, modified)}
            yield {"cut": asdict(cut(path, request["out"], indexed(path, modified), span, timing, **how))}, ()
        case _:
            frames_FHWC, decoder = read(request, indexed(path, modified), modified)
            yield {"decoder": decoder}, (frames_FHWC,)


def scanned(path: str, views: Sequence[View]) -> Iterator[Reply]:
    """A promise, frame after frame, and the facts."""
    for found in scan(path, views):
        match found:
            case Shown():
                yield {"time_s": found.time_s}, found.pictures
            case Promise():
                yield {"promise": asdict(found)}, ()
            case VideoInfo():
                yield {"info": asdict(found)}, ()


def read(request: dict[str, Any], index: Index, modified_ns: int) -> tuple[FramesFHWC, str]:
    """Frames by decord where it is exact and wanted, by PyAV otherwise."""
    path, indices, span = request["path"], request["indices"], request["span"]
    if not index.odd and indices[-1] >= len(index.starts):
        raise no_such_frame(indices[-1], len(index.starts))
    width_px, height_px = fit(index.look.width_px, index.look.height_px, request["short_side_px"])
    if request["decord"] and not span and decord_suits(index):
        with contextlib.suppress(VideoError):
            return with_decord(path, index, indices, width_px, height_px), "decord"
    shown_s = request["shown_s"] and tuple(request["shown_s"])
    return cursor(path, modified_ns).read(indices, span and tuple(span), width_px, height_px, shown_s), "pyav"


def mtime_ns(path: str) -> int:
    """When the file was last changed; 0 for one that cannot be looked at, which `probe` explains."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=1)
def facts(path: str, modified_ns: int) -> VideoInfo:
    """`probe`, once for the cuts that follow it."""
    return probe(path)


@lru_cache(maxsize=1)
def indexed(path: str, modified_ns: int) -> Index:
    """`index`, once for the reads that follow it."""
    return index(path)


def cursor(path: str, modified_ns: int) -> Cursor:
    """The place in a file that was reached by the read before, or at its start: clips of a file are read forward."""
    global _cursor
    if _cursor is None or _cursor[:2] != (path, modified_ns):
        if _cursor is not None:
            _cursor[2].close()
        _cursor = path, modified_ns, Cursor(path, indexed(path, modified_ns))
    return _cursor[2]


_cursor: tuple[str, int, Cursor] | None = None


def send(answers: IO[bytes], reply: dict[str, Any], arrays: Sequence[NDArray[np.uint8]] = ()) -> None:
    """Write an answer: its line, and then the bytes of its arrays."""
    shapes = [array.shape for array in arrays]
    answers.write(json.dumps({**reply, "shapes": shapes}).encode() + b"\n")
    for array in arrays:
        answers.write(np.ascontiguousarray(array).data)
    answers.flush()


if __name__ == "__main__":
    main()
