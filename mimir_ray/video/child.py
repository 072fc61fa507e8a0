"""The decoding process: `python -m mimir_ray.video.child`. It serves `mimir_ray.video.read` until its input closes.

A request is one line of JSON; an answer is one line of JSON, followed by the frames' bytes where there are any.
The kernel's alarm ends the process when a request takes too long, even when the parent is gone and the decoder spins.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from functools import lru_cache
from typing import IO, Any

import numpy as np

from mimir_ray.video.cut import cut
from mimir_ray.video.decode import FramesFHWC, decord_suits, fit, with_decord, with_pyav
from mimir_ray.video.errors import VideoError
from mimir_ray.video.probe import VideoInfo, probe
from mimir_ray.video.shots import find_shots

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
    frames_FHWC: FramesFHWC = np.empty((0, 0, 0, 3), np.uint8)
    reply: dict[str, Any]
    try:
        path = request["path"]
        info = facts(path, mtime_ns(path))
        match request["job"]:
            case "probe":
                reply = {"info": asdict(info)}
            case "shots":
                reply = {"shots": find_shots(path, info, **request["how"])}
            case "cut":
                reply = {"span": cut(path, request["out"], info, **request["how"])}
            case _:
                frames_FHWC, decoder = read(request, info)
                reply = {"shape": frames_FHWC.shape, "decoder": decoder}
    except VideoError as error:
        reply = {"error": str(error)}
    except MemoryError:
        reply = {"error": "needs more memory than a decoder may take"}
    answers.write(json.dumps(reply).encode() + b"\n")
    answers.write(frames_FHWC.data)
    answers.flush()


def read(request: dict[str, Any], info: VideoInfo) -> tuple[FramesFHWC, str]:
    """Frames by decord where it is exact and wanted, by PyAV otherwise."""
    path, indices = request["path"], request["indices"]
    if indices and indices[-1] >= info.frames:
        raise VideoError(f"frame {indices[-1]} was asked for; the video has frames 0 to {info.frames - 1}")
    width_px, height_px = fit(info, request["short_side_px"])
    if request["decord"] and decord_suits(info):
        with contextlib.suppress(VideoError):
            return with_decord(path, info, indices, width_px, height_px), "decord"
    return with_pyav(path, info, indices, width_px, height_px), "pyav"


def mtime_ns(path: str) -> int:
    """When the file was last changed; 0 for one that cannot be looked at, which `probe` explains."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=1)
def facts(path: str, modified_ns: int) -> VideoInfo:
    """`probe`, once for the reads that follow it."""
    return probe(path)


if __name__ == "__main__":
    main()
