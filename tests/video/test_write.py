import io
from pathlib import Path

import av
import numpy as np
import pytest

from mimir_ray.video import VideoError, encode_mp4, probe, read_frames, write_mp4
from tests.video.rendering import numbered, numbers


def test_frames_come_back_in_order_and_close_to_what_was_written(tmp_path: Path) -> None:
    frames = numbered(65)
    write_mp4(tmp_path / "a.mp4", frames, 16)
    read = read_frames(tmp_path / "a.mp4", range(65)).frames
    assert numbers(read) == list(range(65))
    assert np.abs(read.astype(int) - frames).mean() < 4
    flat = np.full((5, 32, 32, 3), (200, 60, 90), np.uint8)  # colours survive where 4:2:0 has nothing to blur
    write_mp4(tmp_path / "b.mp4", flat, 16)
    assert np.abs(read_frames(tmp_path / "b.mp4", [4]).frames.astype(int) - flat[4]).max() <= 3


@pytest.mark.parametrize("fps", [8.0, 16.0, 23.976, 29.97, 65.0])
def test_rate_and_count_are_kept(tmp_path: Path, fps: float) -> None:
    write_mp4(tmp_path / "a.mp4", numbered(65), fps)
    info = probe(tmp_path / "a.mp4")
    assert (info.frames, info.width_px, info.height_px, info.codec) == (65, 64, 48, "h264")
    assert info.fps == pytest.approx(fps, abs=1e-3)
    assert info.duration_s == pytest.approx(65 / fps, rel=1e-3)


def test_bytes_are_those_of_the_file_with_the_index_first(tmp_path: Path) -> None:
    frames = numbered(9)
    write_mp4(tmp_path / "a.mp4", frames, 16)
    data = encode_mp4(frames, 16)
    assert data == (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    write_mp4(target, numbered(9), 16)
    before = target.read_bytes()
    with pytest.raises(VideoError, match=r"odd side.*crop or pad"):
        write_mp4(target, numbered(9, 47, 63), 16)
    assert target.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), 16, "at least one frame"),
        (np.zeros((2, 8, 8), np.uint8), 16, "F x H x W x 3"),
        (np.zeros((2, 8, 8, 3), np.float32), 16, "float32"),
        (np.zeros((2, 8, 8, 3), np.uint8), 0, "above 0"),
    ],
)
def test_frames_that_no_mp4_holds_are_refused(tmp_path: Path, frames: np.ndarray, fps: float, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        write_mp4(tmp_path / "a.mp4", frames, fps)


def test_the_same_frames_give_the_same_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    frames = noise.repeat(4, axis=1).repeat(4, axis=2)
    assert len({encode_mp4(frames, 2.0) for _ in range(12)}) == 1
