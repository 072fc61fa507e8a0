"""Interlaced files: no combs, as many frames as the file counts, spans made whole from themselves alone."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mimir_ray.video import Shown, VideoInfo, View, cut_clip, probe, read_frames, scan_video
from tests.video.players import ffmpeg, record, screen

LENGTH = 60
FIELDS = ("-flags", "+ildct+ilme", "-pix_fmt", "yuv420p")
H264 = ("-c:v", "libx264", *FIELDS, "-x264-params")
MPEG2 = ("-c:v", "mpeg2video", *FIELDS, "-g", "12", "-bf", "2", "-q:v", "3")
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mbaff.mp4": ("top", (*H264, "tff=1:keyint=24:bframes=2")),
    "mbaff.mkv": ("bottom", (*H264, "bff=1:keyint=24:bframes=2")),
    "mbaff.ts": ("top", (*H264, "tff=1:keyint=24:bframes=2")),
    "mpeg2.mpg": ("top", MPEG2),
    "mpeg2.ts": ("bottom", MPEG2),
    "mpeg2.mkv": ("top", MPEG2),
    "dvd.vob": ("bottom", (*MPEG2, "-f", "dvd")),
    "mpeg4.avi": ("top", ("-c:v", "mpeg4", *FIELDS, "-g", "12", "-q:v", "3")),
    "prores.mov": ("top", ("-c:v", "prores_ks", "-flags", "+ildct", "-pix_fmt", "yuv422p10le")),
}


def bars(count: int, width: int = 160, height: int = 96) -> NDArray[np.uint8]:
    """F H W 3. An upright bar that moves by 4 pixels a picture."""
    frames = np.full((count, height, width, 3), 100, np.uint8)
    for index in range(count):
        left = 4 * index % (width - 24)
        frames[index, :, left : left + 24] = 255
    return frames


def combs(frames: NDArray[np.uint8]) -> float:
    """How much lines differ from those above and below them, in the worst frame."""
    luma = frames[..., 1].astype(int)
    return float(np.abs(luma[:, 1:-1] - (luma[:, :-2] + luma[:, 2:]) / 2).mean((1, 2)).max())


def interlaced(path: Path, field: str, codec: tuple[str, ...], count: int = LENGTH) -> Path:
    """Two pictures of the bar in each frame, one in the lines of each field."""
    weave = f"tinterlace=interleave_{field},setfield={field[0]}ff"
    return record(path, bars(2 * count), "-vf", weave, *codec, fps=50)


def scanned(path: Path) -> tuple[VideoInfo, NDArray[np.uint8]]:
    *found, facts = scan_video(path, [View("rgb24", None)])
    assert isinstance(facts, VideoInfo)
    return facts, np.stack([frame.pictures[0] for frame in found if isinstance(frame, Shown)])


@pytest.mark.parametrize("name", VARIANTS)
def test_frames_have_no_combs(tmp_path: Path, name: str) -> None:
    path, out = interlaced(tmp_path / name, *VARIANTS[name]), tmp_path / "out.mp4"
    facts, frames = scanned(path)
    player = screen(path, facts.width_px, facts.height_px)
    assert facts.interlaced
    assert probe(path).interlaced
    assert facts.frames == len(frames) == len(player.frames) == probe(path).frames
    assert facts.times_s == pytest.approx(player.times_s, abs=2e-3)
    assert combs(player.frames) > 3
    assert combs(frames) < 0.5

    for indices in ([LENGTH - 1], [0], [20], [40, 3, 3, 17]):
        np.testing.assert_array_equal(read_frames(path, indices).frames, frames[indices])
    span = 13, 41
    of_span = read_frames(path, range(28), span=span).frames
    np.testing.assert_array_equal(of_span[1:-1], frames[14:40])  # its ends have no neighbours
    assert combs(of_span) < 0.5
    for index in (27, 0, 5):
        np.testing.assert_array_equal(read_frames(path, [index], span=span).frames[0], of_span[index])
    cut_clip(path, out, *span, mode="reencode", timeout_s=60)
    clip = screen(out, facts.width_px, facts.height_px).frames
    assert len(clip) == 28
    assert combs(clip) < 0.6
    assert np.abs(clip.astype(int) - of_span).mean() < 3
    assert not probe(out).interlaced


def mixed(folder: Path, suffix: str, codec: tuple[str, ...], progressive: tuple[str, ...]) -> Path:
    """Half of it interlaced, and half not."""
    parts = [
        record(folder / f"0{suffix}", bars(30), *progressive),
        interlaced(folder / f"1{suffix}", "top", codec, 30),
        record(folder / f"2{suffix}", bars(20), *progressive),
    ]
    (folder / "parts").write_text("".join(f"file '{part}'\n" for part in parts))
    ffmpeg("-f", "concat", "-safe", 0, "-i", folder / "parts", "-c", "copy", folder / f"mixed{suffix}")
    return folder / f"mixed{suffix}"


MIXED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    ".mov": (VARIANTS["prores.mov"][1], ("-c:v", "prores_ks", "-pix_fmt", "yuv422p10le")),
    ".ts": (MPEG2, ("-c:v", "mpeg2video", "-pix_fmt", "yuv420p", "-g", "12", "-bf", "2", "-q:v", "3")),
    ".mkv": (MPEG2, ("-c:v", "mpeg2video", "-pix_fmt", "yuv420p", "-g", "12", "-bf", "2", "-q:v", "3")),
}


@pytest.mark.parametrize("suffix", MIXED)
def test_only_what_is_interlaced_is_made_whole(tmp_path: Path, suffix: str) -> None:
    path = mixed(tmp_path, suffix, *MIXED[suffix])
    facts, frames = scanned(path)
    player = screen(path, facts.width_px, facts.height_px).frames
    assert facts.interlaced
    assert len(frames) == len(player) == 80
    assert combs(frames) < 0.5 < 3 < combs(player)
    assert np.abs(frames[:29].astype(int) - player[:29]).mean() < 1
    for index in (79, 45, 30, 29, 5):
        np.testing.assert_array_equal(read_frames(path, [index]).frames[0], frames[index])
    for span in ((20, 50), (35, 70), (0, 25), (62, 80)):
        read = read_frames(path, range(span[1] - span[0]), span=span).frames
        assert combs(read) < 0.5
        for place in (len(read) - 1, 0, 12):
            np.testing.assert_array_equal(read_frames(path, [place], span=span).frames[0], read[place])


def test_tags_of_an_interlaced_file_are_believed(tmp_path: Path) -> None:
    colours = np.full((20, 96, 160, 3), (200, 60, 90), np.uint8)
    for matrix, name in (("bt709", "bt709"), ("bt601", "smpte170m")):
        chain = f"scale=out_color_matrix={matrix},format=yuv420p,setparams=colorspace={name},setfield=tff"
        path = record(tmp_path / "a.mp4", colours, "-vf", chain, *H264, "tff=1", "-qp", 2)
        assert np.abs(read_frames(path, [5]).frames[0].astype(int) - colours[0]).max() <= 3
