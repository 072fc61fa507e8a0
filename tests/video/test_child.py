"""The decoding process: what ends it, what it leaves behind, who may use it at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest

from mimir_ray.video import Shown, VideoError, View, read, read_frames, scan_video, write_mp4
from tests.video.rendering import encode, numbered, numbers, spoil

VIEWS = [View("rgb24", None)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_mp4(tmp_path / "a.mp4", numbered(100), 16)
    return tmp_path / "a.mp4"


def scanned(path: Path) -> list[int]:
    return numbers(np.stack([found.pictures[0] for found in scan_video(path, VIEWS) if isinstance(found, Shown)]))


def left_over() -> tuple[int, int]:
    """Child processes and open files of this one."""
    process = psutil.Process()
    return len(process.children()), process.num_fds()


def test_a_scan_that_is_left_in_the_middle_leaves_nothing(path: Path) -> None:
    assert scanned(path) == list(range(100))
    before = left_over()
    for _ in range(3):
        assert len(list(islice(scan_video(path, VIEWS), 7))) == 7
    assert scanned(path) == list(range(100))
    assert left_over() == before


def test_a_scan_of_a_damaged_file_leaves_nothing(path: Path, tmp_path: Path) -> None:
    spoilt = spoil(path, tmp_path / "spoilt.mp4", 0.7)
    with pytest.raises(VideoError, match="damaged"):
        scanned(spoilt)
    before = left_over()
    for _ in range(3):
        with pytest.raises(VideoError, match=r"damaged: decoding stops at frame [1-9]"):
            scanned(spoilt)
    assert scanned(path) == list(range(100))
    assert left_over() == before


@pytest.mark.parametrize(("blow", "said"), [(signal.SIGKILL, "crashed"), (signal.SIGSTOP, "stopped after its limit")])
def test_a_scan_whose_process_is_struck_is_an_error_and_the_next_one_is_fine(
    tmp_path: Path, blow: signal.Signals, said: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 360, 640, 3), dtype=np.uint8)
    path = encode(tmp_path / "a.mp4", noise, options={"preset": "ultrafast"})
    frames = scan_video(path, VIEWS, stall_s=1)  # more than the pipe holds
    assert isinstance(list(islice(frames, 2))[1], Shown)
    os.kill(read._scanner._child._process.pid, blow)
    with pytest.raises(VideoError, match=said):
        list(frames)
    assert sum(isinstance(found, Shown) for found in scan_video(path, VIEWS)) == 60


def test_reads_go_on_beside_a_scan_and_from_many_threads(path: Path) -> None:
    frames = scan_video(path, VIEWS)
    assert len(list(islice(frames, 3))) == 3
    assert numbers(read_frames(path, [40]).frames) == [40]
    assert len(list(frames)) == 99
    with ThreadPoolExecutor(6) as pool:
        scans = [pool.submit(scanned, path) for _ in range(3)]
        reads = [pool.submit(lambda i=i: numbers(read_frames(path, [i, 99 - i]).frames)) for i in range(30)]
        assert [read.result() for read in reads] == [[i, 99 - i] for i in range(30)]
        assert all(scan.result() == list(range(100)) for scan in scans)


def test_a_fork_reads_and_scans_with_children_of_its_own(path: Path) -> None:
    script = (
        "import os, sys; from tests.video.test_child import *; path = Path(sys.argv[1])\n"
        "read_frames(path, [0]); scanned(path); pid = os.fork()\n"
        "fine = numbers(read_frames(path, [7]).frames) == [7] and scanned(path) == list(range(100))\n"
        "if pid == 0: os._exit(0 if fine else 1)\n"
        "sys.exit(os.waitpid(pid, 0)[1] or not fine)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_a_parent_that_ends_in_a_scan_takes_its_child_along(path: Path, blow: signal.Signals) -> None:
    script = (
        "import signal, sys, time; from tests.video.test_child import *\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "frames = scan_video(sys.argv[1], VIEWS); next(frames)\n"
        "print(read._scanner._child._process.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(path)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(blow)
    parent.wait(20)
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)


def test_memory_does_not_grow_with_files(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", numbered(12, 180, 320))
    sizes = []
    for _ in range(4):
        for _ in range(50):
            assert len(list(scan_video(path, VIEWS))) == 14
        sizes.append(psutil.Process(read._scanner.child()._process.pid).memory_info().rss)
    assert sizes[-1] < sizes[0] + (8 << 20)


def test_an_interrupted_read_does_not_mix_answers(path: Path, request: pytest.FixtureRequest) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray Train leaves a handler of its own
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    os.kill(read._reader.child()._process.pid, signal.SIGSTOP)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        read_frames(path, [3])
    assert numbers(read_frames(path, [4]).frames) == [4]
