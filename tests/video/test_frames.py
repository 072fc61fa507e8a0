"""Which frames a file has, and when they are shown: those that FFmpeg's own program shows."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from mimir_ray.video import Shown, VideoInfo, View, probe, read_frames, scan_video
from tests.video.players import ffmpeg, record, screen
from tests.video.rendering import encode, numbered, numbers

COUNT = 60
FRAMES = numbered(COUNT)
KEYS = "keyint=12:min-keyint=12:scenecut=0"
YUV = ("-pix_fmt", "yuv420p", "-c:v")
H264 = (*YUV, "libx264", "-x264-params", f"{KEYS}:bframes=3")
OPEN_GOP = (*YUV, "libx264", "-x264-params", f"{KEYS}:bframes=3:open-gop=1")
HEVC = (*YUV, "libx265", "-x265-params", f"{KEYS}:bframes=4:log-level=none")
HIDING = ("-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "1M", "-g", "30")
SMALL_GROUPS = ("-bf", "2", "-g", "12", "-q:v", "3")
ENCODED: dict[str, tuple[str, ...]] = {
    "plain.mp4": H264,
    "plain.mkv": H264,
    "plain.ts": H264,
    "plain.avi": H264,
    "plain.flv": H264,
    "plain.h264": H264,
    "live.mkv": (*H264, "-live", "1"),
    "pieces.mp4": (*H264, "-movflags", "frag_keyframe+empty_moov"),
    "open.mp4": OPEN_GOP,
    "hevc.mp4": HEVC,
    "hevc.ts": HEVC,
    "hidden.webm": (*YUV, "libvpx", *HIDING),
    "hidden-live.webm": (*YUV, "libvpx", *HIDING, "-live", "1"),
    "vp9.webm": (*YUV, "libvpx-vp9", *HIDING),
    "av1.mp4": (*YUV, "libsvtav1", "-g", "30", "-preset", "12"),
    "mpeg2.mpg": (*YUV, "mpeg2video", *SMALL_GROUPS),
    "mpeg2.ts": (*YUV, "mpeg2video", *SMALL_GROUPS),
    "mpeg2.mkv": (*YUV, "mpeg2video", *SMALL_GROUPS),
    "mpeg4.mp4": (*YUV, "mpeg4", *SMALL_GROUPS),
    "packed.avi": (*YUV, "libxvid", *SMALL_GROUPS),
    "motion.avi": ("-c:v", "mjpeg", "-q:v", "3"),
    "prores.mov": ("-pix_fmt", "yuv422p10le", "-c:v", "prores_ks"),
    "window.wmv": (*YUV, "wmv2", "-q:v", "3"),
    "theora.ogv": (*YUV, "libtheora", "-q:v", "8"),
    "picture.gif": (),
    "raw.y4m": YUV[:2],
    "raw.avi": ("-c:v", "rawvideo", "-pix_fmt", "bgr24"),
}


def whole(folder: Path, codec: tuple[str, ...] = H264) -> Path:
    return record(folder / "whole.mp4", FRAMES, *codec)


def copied(folder: Path, suffix: str, codec: tuple[str, ...] = H264, *, first: int = 0, keyframe: int = 0) -> Path:
    """The packets of a file from a number, or from a keyframe's number, on: recordings begin like this."""
    path = folder / f"late{suffix}"
    with av.open(str(whole(folder, codec))) as given, av.open(str(path), "w") as taken:
        stream, keyframes = given.streams.video[0], -1
        copy, start = taken.add_stream_from_template(stream), None
        for count, packet in enumerate(packet for packet in given.demux(stream) if packet.dts is not None):
            keyframes += packet.is_keyframe
            if count < first or keyframes < keyframe:
                continue
            start = packet.dts if start is None else start
            packet.stream, packet.pts, packet.dts = copy, packet.pts - start, packet.dts - start
            taken.mux(packet)
    return path


def from_second(folder: Path, suffix: str, codec: tuple[str, ...], start_s: float) -> Path:
    """What `ffmpeg -ss` copies: in an mp4 an edit list hides what comes before the start."""
    path = folder / f"late{suffix}"
    ffmpeg("-ss", start_s, "-i", whole(folder, codec), "-c", "copy", path)
    return path


def joined(folder: Path, count: int) -> Path:
    """Transport streams end to end: the clock starts again with each."""
    length = COUNT // count
    parts = [record(folder / f"{i}.ts", FRAMES[i * length : (i + 1) * length], *H264) for i in range(count)]
    path = folder / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def uneven(folder: Path, suffix: str) -> Path:
    filters = ("-vf", "setpts='(N+floor(N/10)*7)/25/TB'", "-fps_mode", "passthrough")
    return record(folder / f"uneven{suffix}", FRAMES, *filters, *H264)


PIECES: dict[str, Callable[[Path], Path]] = {
    "between-keyframes.ts": partial(copied, suffix=".ts", first=7),
    "between-keyframes.mp4": partial(copied, suffix=".mp4", first=7),
    "between-keyframes.mkv": partial(copied, suffix=".mkv", first=7),
    "what-leads-a-keyframe.ts": partial(copied, suffix=".ts", codec=HEVC, keyframe=2),
    "what-leads-a-keyframe.mp4": partial(copied, suffix=".mp4", codec=HEVC, keyframe=2),
    "what-leads-a-keyframe.mkv": partial(copied, suffix=".mkv", codec=HEVC, keyframe=2),
    "open-group.mkv": partial(copied, suffix=".mkv", codec=OPEN_GOP, keyframe=2),
    "edit-list-at-a-keyframe.mp4": partial(from_second, suffix=".mp4", codec=H264, start_s=0.96),
    "edit-list.mp4": partial(from_second, suffix=".mp4", codec=H264, start_s=1.1),
    "edit-list-of-hevc.mov": partial(from_second, suffix=".mov", codec=HEVC, start_s=1.1),
    "copied.mkv": partial(from_second, suffix=".mkv", codec=H264, start_s=1.1),
    "copied.avi": partial(from_second, suffix=".avi", codec=H264, start_s=1.1),
    "copied.ts": partial(from_second, suffix=".ts", codec=H264, start_s=1.1),
    "two-joined.ts": partial(joined, count=2),
    "three-joined.ts": partial(joined, count=3),
    "uneven.mp4": partial(uneven, suffix=".mp4"),
    "uneven.mkv": partial(uneven, suffix=".mkv"),
}


def agrees(path: Path) -> VideoInfo:
    """The facts of a file, after all that is said of it and read from it was seen to be what FFmpeg shows."""
    *found, facts = scan_video(path, [View("rgb24", None)])
    assert isinstance(facts, VideoInfo)
    frames = np.stack([frame.pictures[0] for frame in found if isinstance(frame, Shown)])
    player = screen(path, facts.width_px, facts.height_px)
    assert numbers(frames) == numbers(player.frames)
    assert np.abs(frames.astype(int) - player.frames).mean() < 3
    assert facts.frames == len(frames)
    assert facts.times_s == pytest.approx(player.times_s, abs=2e-3)
    assert [frame.time_s for frame in found if isinstance(frame, Shown)] == pytest.approx(facts.times_s, abs=1e-9)
    assert facts.duration_s == pytest.approx(player.end_s, abs=0.045)
    assert replace(probe(path), seekable=False, times_s=()) == replace(facts, times_s=())
    assert probe(path).times_s == pytest.approx(facts.times_s, abs=1e-9)

    chance, count = random.Random(0), len(frames)
    some = [chance.randrange(count) for _ in range(9)]
    for indices in (some, sorted(some), sorted(some, reverse=True), [3, 3, 1], [count - 1], [0], [count // 2]):
        np.testing.assert_array_equal(read_frames(path, indices).frames, frames[indices])
    for start, end in ((count // 2, count), (3, 8), (0, count // 2)):
        read = read_frames(path, range(end - start), span=(start, end)).frames
        np.testing.assert_array_equal(read, frames[start:end])
    return facts


@pytest.mark.parametrize("name", ENCODED)
def test_frames_are_those_that_players_show(tmp_path: Path, name: str) -> None:
    agrees(record(tmp_path / name, FRAMES, *ENCODED[name]))


@pytest.mark.parametrize("name", PIECES)
def test_frames_of_a_piece_are_those_that_players_show(tmp_path: Path, name: str) -> None:
    agrees(PIECES[name](tmp_path))


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm"])
def test_the_last_frame_stands_as_long_as_it_says(tmp_path: Path, name: str) -> None:
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    options = {} if name == "a.webm" else {"bf": "0"}  # an mp4 keeps how long the last packet to be decoded lasts
    times_ms = [40 * i for i in range(COUNT)]
    path = encode(tmp_path / name, FRAMES, codec=codec, options=options, times_ms=times_ms, last_ms=3000)
    assert agrees(path).duration_s == pytest.approx(0.04 * (COUNT - 1) + 3, abs=2e-3)


def test_a_late_part_of_a_joined_stream_is_as_late_as_it_says(tmp_path: Path) -> None:
    for name, first, late_ms in (("a.ts", 0, 0), ("b.ts", 30, 20)):
        times_ms = [0, *(40 * i + late_ms for i in range(1, 30))]
        encode(tmp_path / name, FRAMES[first : first + 30], times_ms=times_ms, fps=25, options={"bf": "0"})
    (tmp_path / "joined.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    info = probe(tmp_path / "joined.ts")
    assert info.duration_s == pytest.approx(2.42, abs=1e-3)
    steps_s = [b - a for a, b in pairwise(info.times_s)]
    assert steps_s == pytest.approx([*[0.04] * 30, 0.06, *[0.04] * 28], abs=1e-3)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
def test_a_header_that_counts_from_another_time_does_not_lengthen_the_last_frame(tmp_path: Path, name: str) -> None:
    ffmpeg("-i", whole(tmp_path), "-c", "copy", "-output_ts_offset", 5, tmp_path / name)
    assert agrees(tmp_path / name).duration_s == pytest.approx(COUNT / 25, abs=2e-3)
