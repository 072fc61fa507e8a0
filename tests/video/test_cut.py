import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mimir_ray.video import VideoError, cut_clip, decode, probe, read, read_frames, read_info, source, write_mp4
from mimir_ray.video.cut import cut, timing_of
from mimir_ray.video.probe import index
from tests.video.rendering import encode, numbered, numbers, spoil, truncate

COUNT = 100
SPANS = [(0, 100), (0, 1), (20, 60), (23, 25), (24, 48), (47, 77), (90, 100)]
VARIABLE_MS = np.cumsum(np.random.default_rng(0).integers(10, 120, COUNT)).tolist()
KEYS = "keyint=24:min-keyint=24:scenecut=0"
VARIANTS: dict[str, dict[str, Any]] = {
    "b-frames.mp4": {"options": {"x264-params": f"{KEYS}:bframes=3"}},
    "open-gop.mp4": {"options": {"x264-params": f"{KEYS}:bframes=3:open-gop=1"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": f"{KEYS}:bframes=4:open-gop=0:log-level=none"}},
    "open-gop-hevc.mp4": {"codec": "libx265", "options": {"x265-params": f"{KEYS}:bframes=4:log-level=none"}},
    "variable.mp4": {"times_ms": VARIABLE_MS, "fps": 30, "options": {"x264-params": f"{KEYS}:bframes=2"}},
    "ten-bit.mp4": {"pixel_format": "yuv420p10le", "options": {"x264-params": f"{KEYS}:bframes=3"}},
    "b-frames.mkv": {"options": {"x264-params": f"{KEYS}:bframes=3"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "24"}},
}
UNCOUNTED: dict[str, dict[str, Any]] = {  # a packet may be no frame, one, or two
    "b-frames.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "24"}},
    "open-gop-mpeg2.mkv": {"codec": "mpeg2video", "fps": 25, "options": {"bf": "2", "g": "24"}},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "24", "auto-alt-ref": "1", "lag-in-frames": "16"}},
    "b-frames.ts": {"options": {"bf": "3", "g": "24"}},
}
REFRESHING = {"x264-params": "intra-refresh=1:keyint=24:bframes=0:scenecut=0"}  # its "keyframes" are not whole


def everything(path: Path) -> NDArray[np.uint8]:
    return read_frames(path, range(read_info(path).frames), decord=False).frames


def starts_at_zero_and_keeps_times(clip: Path, source: Path, start: int, end: int) -> bool:
    times_s = np.array(read_info(source).times_s[start:end])
    return bool(np.allclose(read_info(clip).times_s, times_s - times_s[0], atol=1e-6))


@pytest.mark.parametrize("name", [*VARIANTS, *UNCOUNTED, "refreshing.mp4"])
def test_a_new_encoding_holds_exactly_the_frames_asked_for(tmp_path: Path, name: str) -> None:
    options = {**VARIANTS, **UNCOUNTED, "refreshing.mp4": {"options": REFRESHING}}[name]
    path, out = encode(tmp_path / name, numbered(COUNT), **options), tmp_path / "out.mp4"
    frames = everything(path)
    for start, end in SPANS:
        assert cut_clip(path, out, start, end, mode="reencode", timeout_s=60) == (start, end)
        found = everything(out)
        assert numbers(found) == list(range(start, end))
        assert np.abs(found.astype(int) - frames[start:end]).mean() < 3
        assert starts_at_zero_and_keeps_times(out, path, start, end)
        info = probe(out)
        assert (info.codec, info.pixel_format, info.seekable) == ("h264", "yuv420p", True)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_late_span_is_not_decoded_from_the_start(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = encode(tmp_path / name, numbered(COUNT), **VARIANTS[name]), tmp_path / "out.mp4"
    decoded = 0

    def counted(packets: Iterable[Any]) -> Iterator[Any]:
        nonlocal decoded
        for frame in source.decoded(packets):
            decoded += 1
            yield frame

    monkeypatch.setattr(decode, "decoded", counted)
    cut(str(path), str(out), index(path), (90, 100), timing_of(probe(path), 90, 100), mode="reencode")
    assert numbers(everything(out)) == list(range(90, 100))
    assert decoded < 60 or name == "open-gop.mp4"  # its keyframes in the middle need not be whole


@pytest.mark.parametrize("name", VARIANTS)
def test_a_copy_holds_the_bytes_of_the_frames_that_need_no_others(tmp_path: Path, name: str) -> None:
    path, out = encode(tmp_path / name, numbered(COUNT), **VARIANTS[name]), tmp_path / "out.mp4"
    frames = everything(path)
    for start, end in [span for span in SPANS if span not in [(0, 1), (23, 25)]]:
        first, last = cut_clip(path, out, start, end, mode="copy", timeout_s=60)
        assert first == -(-start // 24) * 24  # keyframes are 24 frames apart
        assert end - 5 < last <= end
        np.testing.assert_array_equal(everything(out), frames[first:last])
        assert starts_at_zero_and_keeps_times(out, path, first, last)


def test_a_copy_between_whole_closed_groups_is_the_span_asked_for(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", numbered(COUNT), **VARIANTS["b-frames.mp4"])
    for span in [(0, 24), (24, 48), (48, 100), (0, 100)]:
        assert cut_clip(path, tmp_path / "out.mp4", *span, mode="copy", timeout_s=60) == span
    # In an open group the last frames before a keyframe may need it: they are not kept.
    path = encode(tmp_path / "b.mp4", numbered(COUNT), **VARIANTS["open-gop.mp4"])
    first, last = cut_clip(path, tmp_path / "out.mp4", 24, 48, mode="copy", timeout_s=60)
    assert first == 24
    assert 44 <= last < 48


@pytest.mark.parametrize(("start", "end"), [(1, 24), (30, 31), (97, 100)])
def test_a_span_without_a_keyframe_cannot_be_copied(tmp_path: Path, start: int, end: int) -> None:
    path = encode(tmp_path / "a.mp4", numbered(COUNT), **VARIANTS["b-frames.mp4"])
    with pytest.raises(VideoError, match=f"frames {start} to {end - 1} hold no keyframe.*longer span or use mode reen"):
        cut_clip(path, tmp_path / "out.mp4", start, end, mode="copy", timeout_s=60)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_a_copy_does_not_begin_where_the_picture_only_begins_to_be_refreshed(tmp_path: Path) -> None:
    path, out = encode(tmp_path / "a.mp4", numbered(COUNT), options=REFRESHING), tmp_path / "out.mp4"
    assert cut_clip(path, out, 0, 60, mode="copy", timeout_s=60) == (0, 60)
    np.testing.assert_array_equal(everything(out), everything(path)[:60])
    with pytest.raises(VideoError, match="no keyframe that a copy could begin with"):
        cut_clip(path, out, 20, 100, mode="copy", timeout_s=60)


@pytest.mark.parametrize("name", UNCOUNTED)
def test_what_an_mp4_cannot_take_over_is_not_copied(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, numbered(COUNT), **UNCOUNTED[name])
    with pytest.raises(VideoError, match="packets do not tell which frames they show, or when: use mode reencode"):
        cut_clip(path, tmp_path / "out.mp4", 0, 50, mode="copy", timeout_s=60)
    path = encode(tmp_path / "a.mov", numbered(9), codec="prores_ks", pixel_format="yuv422p10le")
    with pytest.raises(VideoError, match="cannot be written as an mp4"):
        cut_clip(path, tmp_path / "out.mp4", 0, 9, mode="copy", timeout_s=60)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_rotated_video_is_turned_upright_or_keeps_its_rotation(tmp_path: Path, turn: int) -> None:
    upright = numbered(30)
    stored = np.ascontiguousarray(np.rot90(upright, -turn // 90, axes=(1, 2)))
    path, out = encode(tmp_path / "a.mp4", stored, rotation_deg=turn), tmp_path / "out.mp4"
    cut_clip(path, out, 5, 20, mode="reencode", timeout_s=60)
    assert (probe(out).rotation_deg, probe(out).width_px, probe(out).height_px) == (0, 64, 48)
    assert numbers(everything(out)) == list(range(5, 20))
    assert np.abs(everything(out).astype(int) - everything(path)[5:20]).mean() < 3
    assert cut_clip(path, out, 0, 30, mode="copy", timeout_s=60) == (0, 30)
    assert (probe(out).rotation_deg, probe(out).width_px, probe(out).height_px) == (turn, 64, 48)
    np.testing.assert_array_equal(everything(out), everything(path))


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_an_odd_side_loses_one_row_or_column(tmp_path: Path, turn: int) -> None:
    path = encode(tmp_path / "a.mp4", numbered(12, 47, 63), pixel_format="yuv444p", rotation_deg=turn)
    out = tmp_path / "out.mp4"
    cut_clip(path, out, 2, 9, mode="reencode", timeout_s=60)
    found, whole = everything(out), everything(path)[2:9]
    height, width = found.shape[1:3]
    assert (height, width) == ((62, 46) if turn % 180 else (46, 62))
    top, left = turn in (90, 180), turn in (180, 270)  # where the last column and row of the stored picture are
    assert np.abs(found.astype(int) - whole[:, top : top + height, left : left + width]).mean() < 3


@pytest.mark.parametrize("full_range", ["yuvj420p", "gbrp"])
def test_colours_of_any_pixel_format_are_kept(tmp_path: Path, full_range: str) -> None:
    frames = np.full((5, 32, 32, 3), (200, 60, 90), np.uint8)
    codec = {"yuvj420p": "mjpeg", "gbrp": "libx264rgb"}[full_range]
    path = encode(tmp_path / "a.mkv", frames, codec=codec, pixel_format={"libx264rgb": "rgb24"}.get(codec, full_range))
    assert probe(path).pixel_format == full_range
    cut_clip(path, tmp_path / "out.mp4", 1, 4, mode="reencode", timeout_s=60)
    assert np.abs(everything(tmp_path / "out.mp4").astype(int) - everything(path)[1:4]).max() <= 4


def test_quality_and_effort_are_chosen_and_the_same_cut_gives_the_same_bytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 12, 16, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    path, out = encode(tmp_path / "a.mp4", noise), tmp_path / "out.mp4"

    def data(**options: Any) -> bytes:
        cut_clip(path, out, 3, 17, **{"mode": "reencode", "timeout_s": 60, **options})
        return out.read_bytes()

    assert data() == data()
    assert len(data(crf=40)) < len(data(crf=10))
    assert data(preset="ultrafast") != data(preset="medium")
    assert data().index(b"moov") < data().index(b"mdat")
    cut_clip(path, out, 0, 20, mode="copy", timeout_s=60)
    before = out.read_bytes()
    cut_clip(path, out, 0, 20, mode="copy", timeout_s=60)
    assert out.read_bytes() == before


@pytest.mark.parametrize("span", [(-1, 3), (5, 5), (7, 3), (0, 10), (9, 11)])
def test_spans_that_are_not_there_are_refused(tmp_path: Path, span: tuple[int, int]) -> None:
    write_mp4(tmp_path / "a.mp4", numbered(9), 16)
    with pytest.raises(VideoError, match=r"were asked for; the video has frames 0 to 8"):
        cut_clip(tmp_path / "a.mp4", tmp_path / "out.mp4", *span, mode="reencode", timeout_s=60)


def test_a_damaged_file_is_an_error_that_leaves_the_old_clip(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.mp4", numbered(COUNT), **VARIANTS["b-frames.mp4"])
    spoilt, short = spoil(whole, tmp_path / "spoilt.mp4", 0.6), truncate(whole, tmp_path / "short.mp4", 0.5)
    (tmp_path / "out.mp4").write_bytes(b"the old clip")
    for start in (0, 80):
        with pytest.raises(VideoError, match="damaged: decoding stops at frame"):
            cut_clip(spoilt, tmp_path / "out.mp4", start, COUNT, mode="reencode", timeout_s=60)
    with pytest.raises(VideoError, match="cut off"):
        cut_clip(short, tmp_path / "out.mp4", 0, 10, mode="copy", timeout_s=60)
    assert (tmp_path / "out.mp4").read_bytes() == b"the old clip"
    assert {file.name for file in tmp_path.iterdir()} == {"whole.mp4", "spoilt.mp4", "short.mp4", "out.mp4"}


@pytest.fixture
def slow_cut(tmp_path: Path) -> Callable[[float], tuple[int, int]]:
    """A cut that takes many seconds, in a child that has started."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 180, 320, 3), dtype=np.uint8)
    path = encode(tmp_path / "a.mp4", noise, options={"preset": "ultrafast"})
    read_info(path)
    out = tmp_path / "out.mp4"
    return lambda limit_s: cut_clip(path, out, 0, 200, mode="reencode", preset="veryslow", timeout_s=limit_s)


def test_a_cut_is_stopped_at_its_limit_and_leaves_nothing(
    tmp_path: Path, slow_cut: Callable[[float], tuple[int, int]]
) -> None:
    start = time.monotonic()
    with pytest.raises(VideoError, match=r"stopped after its limit of 0\.5 s"):
        slow_cut(0.5)
    assert time.monotonic() - start < 10
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_a_cut_whose_process_is_killed_leaves_nothing(
    tmp_path: Path, slow_cut: Callable[[float], tuple[int, int]]
) -> None:
    child = read._reader.child()

    def kill_while_it_writes() -> None:
        while not list(tmp_path.glob(".out.mp4.*.partial")):
            time.sleep(0.01)
        os.kill(child._process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_while_it_writes, daemon=True)
    killer.start()
    with pytest.raises(VideoError, match=r"the decoder crashed \(SIGKILL\)"):
        slow_cut(60)
    killer.join(10)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
    assert numbers(read_frames(encode(tmp_path / "b.mp4", numbered(5)), [4]).frames) == [4]


@pytest.mark.parametrize("name", ["b-frames.avi", "b-frames.mkv"])
def test_cuts_of_a_file_one_after_another_are_read_in_one_go(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = str(encode(tmp_path / name, numbered(COUNT), **(VARIANTS | UNCOUNTED)[name])), str(tmp_path / "out.mp4")
    opened: list[str] = []
    opener = decode.opened
    monkeypatch.setattr(decode, "opened", lambda path: (opened.append(path), opener(path))[1])
    info, found = probe(path), index(path)
    opened.clear()
    cursor = decode.Cursor(path, found)
    for start, end in [(0, 20), (20, 50), (60, 90), (40, 45)]:
        cut(path, out, found, (start, end), timing_of(info, start, end), mode="reencode", cursor=cursor)
        assert numbers(everything(Path(out))) == list(range(start, end))
    assert len(opened) == (2 if name.endswith("avi") else 1), (
        "again for what lies behind, where nothing tells its place"
    )
    cursor.close()
