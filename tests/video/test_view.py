"""What a frame looks like: against FFmpeg's own program, and against pictures that were drawn."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mimir_ray.video import Shown, VideoInfo, View, cut_clip, probe, read_frames, scan_video
from tests.video.players import FFMPEG, ffmpeg, record, screen
from tests.video.rendering import encode, numbered, numbers

CORNERS = np.zeros((6, 60, 80, 3), np.uint8)
CORNERS[:, :20, :25], CORNERS[:, 40:, 50:], CORNERS[:, :20, 50:] = (255, 0, 0), (0, 0, 255), (0, 255, 0)
EXACT = ("-pix_fmt", "yuv444p", "-c:v", "libx264", "-qp", "4")


def shown_size(path: Path) -> tuple[int, int]:
    """Of the upright picture in square pixels, of which neither side is shrunk, as FFmpeg states it."""
    command = [FFMPEG, "-hide_banner", "-i", str(path), "-vf", "showinfo", "-frames:v", "1", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    found = re.search(r" n: *0 .*? sar:(\d+)/(\d+) s:(\d+)x(\d+)", said)
    assert found
    across, down, width, height = map(int, found.groups())
    aspect = across / down if across else 1
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("aspect", ["1/1", "64/45", "8/9", "1/2"])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [(), ("-display_hflip",)])
def test_pictures_stand_as_players_set_them_up(tmp_path: Path, turn: int, mirror: tuple[str, ...], aspect: str) -> None:
    stored = record(tmp_path / "stored.mp4", CORNERS, "-vf", f"setsar={aspect}", *EXACT)
    path, out = tmp_path / "a.mp4", tmp_path / "out.mp4"
    ffmpeg("-display_rotation", turn, *mirror, "-i", stored, "-c", "copy", path)
    width, height = shown_size(path)
    info, frames = probe(path), read_frames(path, range(6)).frames
    assert (info.width_px, info.height_px) == (width, height)
    assert frames.shape == (6, height, width, 3)
    assert difference(frames, screen(path, width, height).frames) < 5
    *found, facts = scan_video(path, [View("rgb24", None), View("gray8", 30)])
    assert replace(info, seekable=False) == facts
    np.testing.assert_array_equal([frame.pictures[0] for frame in found if isinstance(frame, Shown)], frames)

    cut_clip(path, out, 1, 5, mode="reencode", timeout_s=60)
    assert shown_size(out) == (width // 2 * 2, height // 2 * 2)
    assert (probe(out).rotated, probe(out).anamorphic) == (False, False)
    even = screen(out, width // 2 * 2, height // 2 * 2).frames
    assert difference(even, frames[1:5, : height // 2 * 2, : width // 2 * 2]) < 8
    assert cut_clip(path, out, 0, 6, mode="copy", timeout_s=60) == (0, 6)
    np.testing.assert_array_equal(read_frames(out, range(6)).frames, frames)
    assert shown_size(out) == (width, height)


@pytest.mark.parametrize("aspect", ["1/65535", "65535/1", "1/16"])
def test_an_aspect_that_no_picture_has_is_taken_for_square(tmp_path: Path, aspect: str) -> None:
    info = probe(record(tmp_path / "a.mkv", CORNERS, "-vf", f"setsar={aspect}:max=100000", *EXACT))
    assert (info.width_px, info.height_px, info.pixel_aspect) == (80, 60, 1.0)


def two_streams(folder: Path, first: str, second: str, *disposition: str, suffix: str = ".mp4") -> Path:
    """A dash camera: one stream shows numbers from 0, the other from 100, each in a size."""
    sizes = [tuple(map(int, size.split("x"))) for size in (first, second)]
    frames = numbered(130)
    for number, (width, height) in enumerate(sizes):
        part = frames[100 * number : 100 * number + 20].repeat(height // 48, 1).repeat(width // 64, 2)
        record(folder / f"{number}.mp4", part, "-pix_fmt", "yuv420p", "-c:v", "libx264", "-crf", 40 - 30 * number)
    path = folder / f"dual{suffix}"
    given = [argument for number in (0, 1) for argument in ("-i", folder / f"{number}.mp4")]
    ffmpeg(*given, "-map", 0, "-map", 1, "-c", "copy", *disposition, path)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    ("first", "second", "default", "shown"),
    [
        ("64x48", "64x48", 0, 0),
        ("64x48", "64x48", 1, 1),
        ("128x96", "64x48", 1, 1),
        ("64x48", "128x96", 0, 0),
    ],
)
def test_of_two_streams_all_read_the_one_that_players_show(
    tmp_path: Path, first: str, second: str, default: int, shown: int, suffix: str
) -> None:
    flags = [f"-disposition:v:{number}" for number in (0, 1)]
    disposition = flags[default], "default", flags[1 - default], "0"
    path, out = two_streams(tmp_path, first, second, *disposition, suffix=suffix), tmp_path / "out.mp4"
    expected = list(range(100 * shown, 100 * shown + 20))
    *found, facts = scan_video(path, [View("rgb24", None)])
    assert facts.stream == probe(path).stream == shown
    read = read_frames(path, range(20))
    assert (numbers(read.frames), read.decoder) == (expected, "pyav")
    assert numbers(np.stack([frame.pictures[0] for frame in found if isinstance(frame, Shown)])) == expected
    assert numbers(screen(path, 64, 48).frames) == expected
    for mode in ("copy", "reencode"):
        cut_clip(path, out, 0, 20, mode=mode, timeout_s=60)
        assert numbers(read_frames(out, range(20)).frames) == expected


@pytest.mark.parametrize(("first", "second"), [("64x48", "128x96"), ("128x96", "64x48")])
def test_of_two_streams_without_a_default_all_read_the_same(tmp_path: Path, first: str, second: str) -> None:
    path, out = two_streams(tmp_path, first, second, suffix=".ts"), tmp_path / "out.mp4"
    expected = [100 * probe(path).stream + number for number in range(20)]
    *found, facts = scan_video(path, [View("rgb24", None)])
    assert isinstance(facts, VideoInfo)
    assert facts.stream == probe(path).stream
    assert numbers(np.stack([frame.pictures[0] for frame in found if isinstance(frame, Shown)])) == expected
    assert numbers(read_frames(path, range(20)).frames) == expected
    cut_clip(path, out, 0, 20, mode="reencode", timeout_s=60)
    assert numbers(screen(out, 64, 48).frames) == expected


@pytest.mark.parametrize("place", [0, 1])
def test_a_cover_is_no_video(tmp_path: Path, place: int) -> None:
    ffmpeg("-f", "rawvideo", "-s", "320x240", "-pix_fmt", "rgb24", "-i", "-", tmp_path / "a.png",
           pixels=np.full((1, 240, 320, 3), 200, np.uint8))  # fmt: skip
    video = record(tmp_path / "v.mp4", numbered(20), "-pix_fmt", "yuv420p", "-c:v", "libx264")
    inputs = [tmp_path / "a.png", video] if place == 0 else [video, tmp_path / "a.png"]
    given = [argument for path in inputs for argument in ("-i", path)]
    path = tmp_path / "covered.mp4"
    ffmpeg(*given, "-map", 0, "-map", 1, "-c", "copy", f"-disposition:v:{place}", "attached_pic", path)
    read = read_frames(path, range(20))
    assert (numbers(read.frames), read.decoder) == (list(range(20)), "pyav")
    assert probe(path).frames == 20


def test_frames_of_several_sizes_are_shown_in_that_of_the_first(tmp_path: Path) -> None:
    frames = numbered(40)
    parts = [encode(tmp_path / "0.ts", frames[:20]), encode(tmp_path / "1.ts", frames[20:].repeat(2, 1).repeat(2, 2))]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    read = read_frames(path, range(40)).frames
    assert read.shape == (40, 48, 64, 3)
    assert numbers(read) == list(range(40))
