"""A clip that was copied shows, bit for bit, what its span shows in the source, to us and to FFmpeg's own program."""

from pathlib import Path

import numpy as np
import pytest

from mimir_ray.video import cut_clip, probe, read_frames
from tests.video.players import record, screen
from tests.video.rendering import numbered, numbers

FRAMES = numbered(72)
YUV = ("-pix_fmt", "yuv420p", "-c:v")
KEYS = "keyint=24:min-keyint=24:scenecut=0"
COPIED: dict[str, tuple[str, ...]] = {
    "h264.mp4": (*YUV, "libx264", "-x264-params", f"{KEYS}:bframes=3"),
    "h264.mkv": (*YUV, "libx264", "-x264-params", f"{KEYS}:bframes=3"),
    "ten-bit.mp4": ("-pix_fmt", "yuv420p10le", "-c:v", "libx264", "-x264-params", KEYS),
    "hevc.mp4": (*YUV, "libx265", "-x265-params", f"{KEYS}:bframes=4:open-gop=0:log-level=none"),
    "open-gop-hevc.mp4": (*YUV, "libx265", "-x265-params", f"{KEYS}:bframes=4:log-level=none"),
    "vp9.webm": (*YUV, "libvpx-vp9", "-g", "24", "-auto-alt-ref", "0", "-lag-in-frames", "0"),
    "av1.mp4": (*YUV, "libsvtav1", "-g", "24", "-preset", "12"),
    "tagged.mp4": (*YUV, "libx264", "-x264-params", f"{KEYS}:colormatrix=bt709:fullrange=on", "-color_range", "pc"),
    "wide.mp4": ("-vf", "setsar=4/3", *YUV, "libx264", "-x264-params", KEYS),
    "motion.mov": (*YUV, "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"),
}


@pytest.mark.parametrize("name", COPIED)
@pytest.mark.parametrize("span", [(0, 72), (10, 60), (24, 48)])
def test_a_copy_shows_what_its_span_shows(tmp_path: Path, name: str, span: tuple[int, int]) -> None:
    path, out = record(tmp_path / name, FRAMES, *COPIED[name]), tmp_path / "out.mp4"
    start, end = cut_clip(path, out, *span, mode="copy", timeout_s=60)
    assert span[0] <= start < end <= span[1]
    count = end - start
    of_span = read_frames(path, range(count), span=(start, end)).frames
    np.testing.assert_array_equal(read_frames(out, range(count)).frames, of_span)
    np.testing.assert_array_equal(read_frames(out, range(count), decord=False).frames, of_span)
    info, clip = probe(path), probe(out)
    told = ("codec", "pixel_format", "width_px", "height_px", "pixel_aspect", "transfer")
    assert [getattr(info, name) for name in told] == [getattr(clip, name) for name in told]
    assert clip.frames == count
    size = info.width_px, info.height_px
    np.testing.assert_array_equal(screen(out, *size).frames, screen(path, *size).frames[start:end])


@pytest.mark.parametrize("name", [*COPIED, "prores.mov", "mpeg2.ts"])
@pytest.mark.parametrize("span", [(0, 72), (5, 30)])
def test_either_way_the_whole_span_is_there(tmp_path: Path, name: str, span: tuple[int, int]) -> None:
    encoders = {"prores.mov": ("-pix_fmt", "yuv422p10le", "-c:v", "prores_ks"), "mpeg2.ts": (*YUV, "mpeg2video")}
    path, out = record(tmp_path / name, FRAMES, *{**COPIED, **encoders}[name]), tmp_path / "out.mp4"
    assert cut_clip(path, out, *span, mode="either", timeout_s=60) == span
    info, clip = probe(path), probe(out)
    assert numbers(screen(out, clip.width_px, clip.height_px).frames) == list(range(*span))
    intra = name == "motion.mov"
    assert clip.codec == (info.codec if (span[0] == 0 or intra) and name in COPIED else "h264")
