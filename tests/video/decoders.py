"""Decoding processes that stand still."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mimir_ray.video import read


@contextmanager
def stopped_decoders(path: Path) -> Iterator[None]:
    """Let both decoding processes read a video, then stop them: the first that asks either waits until its limit."""
    read.read_frames(path, [0])
    list(read.scan_video(path, ()))
    processes = [role.child()._process for role in (read._reader, read._scanner)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    yield
    for process in processes:
        process.send_signal(signal.SIGCONT)
