import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from mimir_ray.video import VideoError, allowed_s, process, read, read_frames, read_info, write_mp4
from mimir_ray.video.decode import Cursor
from mimir_ray.video.probe import index
from mimir_ray.video.process import Role
from tests.video.rendering import encode, numbered, numbers, truncate

INDICES = [0, 1, 5, 23, 24, 25, 30, 47, 48, 49, 50, 70, 71, 72, 73, 97, 98, 99]
HAS_DECORD = subprocess.run([sys.executable, "-c", "import decord"], capture_output=True).returncode == 0
needs_decord = pytest.mark.skipif(not HAS_DECORD, reason="decord has no wheel for this machine")

VARIABLE_MS = np.cumsum(np.random.default_rng(0).integers(10, 120, 100)).tolist()
VARIANTS = {
    "b-frames.mp4": {"options": {"bf": "3", "g": "24"}},
    "open-gop.mp4": {"options": {"x264-params": "open-gop=1:bframes=3:keyint=24:scenecut=0"}},
    "refreshing.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=24:bframes=0:scenecut=0"}},
    "open-gop-hevc.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=24:bframes=4:log-level=none"}},
    "variable.mp4": {"times_ms": VARIABLE_MS, "fps": 30, "options": {"bf": "2", "g": "24"}},
    "ten-bit.mp4": {"pixel_format": "yuv420p10le"},
    "b-frames.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "444.mkv": {"pixel_format": "yuv444p"},
}
BY_DECORD = {"b-frames.mp4", "variable.mp4", "vp9.webm", "444.mkv"}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("decord", [True, False])
def test_frames_asked_for_are_frames_got(tmp_path: Path, name: str, decord: bool) -> None:
    path = encode(tmp_path / name, numbered(100), **VARIANTS[name])
    found = read_frames(path, INDICES, decord=decord)
    assert numbers(found.frames) == INDICES
    assert found.decoder == ("decord" if decord and HAS_DECORD and name in BY_DECORD else "pyav")


@needs_decord
@pytest.mark.parametrize("name", sorted(BY_DECORD))
def test_both_decoders_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, numbered(100), **VARIANTS[name])
    np.testing.assert_array_equal(read_frames(path, INDICES).frames, read_frames(path, INDICES, decord=False).frames)


@pytest.mark.parametrize("decord", [True, False])
def test_odd_sizes_and_any_order_of_indices(tmp_path: Path, decord: bool) -> None:
    path = encode(tmp_path / "odd.mp4", numbered(40, 47, 63), pixel_format="yuv444p")
    found = read_frames(path, [30, 2, 2, 39, 0], decord=decord)
    assert found.frames.shape == (5, 47, 63, 3)
    assert numbers(found.frames) == [30, 2, 2, 39, 0]


@pytest.mark.parametrize("decord", [True, False])
def test_large_frames_are_shrunk_and_small_ones_are_not(tmp_path: Path, decord: bool) -> None:
    path = encode(tmp_path / "a.mp4", numbered(20, 96, 160))
    found = read_frames(path, [0, 9, 19], short_side_px=48, decord=decord).frames
    assert found.shape == (3, 48, 80, 3)
    assert numbers(found) == [0, 9, 19]
    assert read_frames(path, [0], short_side_px=256, decord=decord).frames.shape == (1, 96, 160, 3)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotated_frames_are_upright(tmp_path: Path, turn: int) -> None:
    upright = numbered(10)
    stored = np.ascontiguousarray(np.rot90(upright, -turn // 90, axes=(1, 2)))
    found = read_frames(encode(tmp_path / "a.mp4", stored, rotation_deg=turn), range(10)).frames
    assert numbers(found) == list(range(10))
    assert found[:, 4, :, 0].min() > 180  # red is on top


def test_a_frame_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", numbered(9), 16)
    with pytest.raises(VideoError, match="frame 9 was asked for; the video has frames 0 to 8"):
        read_frames(tmp_path / "a.mp4", [0, 9])
    with pytest.raises(VideoError, match="none below 0"):
        read_frames(tmp_path / "a.mp4", [-1])


def test_a_file_that_changes_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, numbered(9), 16)
    assert read_info(path).frames == 9
    write_mp4(path, numbered(30), 16)
    assert read_info(path).frames == 30
    assert numbers(read_frames(path, [29]).frames) == [29]


def test_a_truncated_file_is_an_error_and_the_next_file_is_fine(tmp_path: Path) -> None:
    write_mp4(tmp_path / "whole.mp4", numbered(100), 16)
    cut = truncate(tmp_path / "whole.mp4", tmp_path / "cut.mp4", 0.5)
    for _ in range(3):
        with pytest.raises(VideoError, match="cut off"):
            read_frames(cut, [0, 50])
    assert numbers(read_frames(tmp_path / "whole.mp4", [50]).frames) == [50]


def test_a_crash_of_decord_ends_in_pyav(tmp_path: Path, crashing_decord: None) -> None:
    write_mp4(tmp_path / "a.mp4", numbered(20), 16)
    found = read_frames(tmp_path / "a.mp4", [0, 19])
    assert (found.decoder, numbers(found.frames)) == ("pyav", [0, 19])


def test_a_hang_of_decord_ends_in_pyav_within_the_limit(tmp_path: Path, hanging_decord: None) -> None:
    write_mp4(tmp_path / "a.mp4", numbered(20), 16)
    read_info(tmp_path / "a.mp4")  # the child has started
    start = time.monotonic()
    found = read_frames(tmp_path / "a.mp4", [0, 19], timeout_s=1)
    assert time.monotonic() - start < 20  # 1 s, and the start of another child on a busy machine
    assert (found.decoder, numbers(found.frames)) == ("pyav", [0, 19])


def test_a_machine_without_decord_reads_with_pyav(tmp_path: Path, missing_decord: None) -> None:
    write_mp4(tmp_path / "a.mp4", numbered(20), 16)
    assert read_frames(tmp_path / "a.mp4", [19]).decoder == "pyav"


def test_spans_keep_their_child_and_only_what_decord_may_read_wears_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mp4(tmp_path / "a.mp4", numbered(20), 16)
    monkeypatch.setattr(process, "DECORD_READS_PER_CHILD", 2)
    read_info(tmp_path / "a.mp4")
    child = read._reader.child()
    for first in range(0, 20, 4):
        assert numbers(read_frames(tmp_path / "a.mp4", [3], span=(first, first + 4)).frames) == [first + 3]
        read_frames(tmp_path / "a.mp4", [first], decord=False)
    assert read._reader.child() is child
    for _ in range(3 - child.decord_reads):
        read_frames(tmp_path / "a.mp4", [0])
    assert read._reader.child() is not child


def test_a_read_that_begins_late_is_allowed_more() -> None:
    assert allowed_s(60, 0) == 60
    assert allowed_s(60, 3600) == 60 + 20 * 3600
    assert allowed_s(60, 10, seconds_per_second=2) == 80


def test_a_child_that_was_killed_is_replaced(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", numbered(20), 16)
    read_frames(tmp_path / "a.mp4", [3])
    child = read._reader.child()
    os.kill(child._process.pid, signal.SIGKILL)
    assert numbers(read_frames(tmp_path / "a.mp4", [4]).frames) == [4]
    assert read._reader.child() is not child


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", numbered(9), 16)
    script = (
        "import sys; from mimir_ray.video import read, read_frames; read_frames(sys.argv[1], [0]);"
        "print(read._reader.child()._process.pid, flush=True); import os; os.kill(os.getpid(), 9)"
    )
    parent = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.mp4")], capture_output=True, text=True)
    pid = int(parent.stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)


@pytest.fixture
def crashing_decord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_decord("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", tmp_path, monkeypatch)


@pytest.fixture
def hanging_decord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_decord("while True: pass", tmp_path, monkeypatch)


@pytest.fixture
def missing_decord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_decord("raise ImportError", tmp_path, monkeypatch)


def _replace_decord(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a fresh child import a decord that misbehaves; the one of the session stays for the other tests."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "decord.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.setattr(read, "_reader", Role())


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_a_frame_that_cannot_be_made_a_picture_is_an_error_of_the_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / name, numbered(9))
    cursor = Cursor(str(path), index(path))

    def fails(*_: object) -> None:
        raise av.error.InvalidDataError(1, "no such format")

    monkeypatch.setattr(cursor.painter, "paint", fails)
    with pytest.raises(VideoError, match=r"damaged: decoding stops at frame 4 \(.*\); fetch it again, or leave it out"):
        cursor.read([4, 5], None, 64, 48)
    cursor.close()
