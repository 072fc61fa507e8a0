import os
from itertools import pairwise
from pathlib import Path

import pytest

from mimir_ray.video import VideoError, probe, read_info, write_mp4
from tests.video.rendering import encode, numbered, truncate

CONTAINERS = [(".mp4", "libx264"), (".avi", "mpeg4"), (".mkv", "libx264"), (".webm", "libvpx-vp9")]


def test_facts_of_a_plain_video(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", numbered(65), 16)
    info = probe(tmp_path / "a.mp4")
    assert (info.frames, info.duration_s, info.fps, info.rotation_deg, info.seekable) == (65, 65 / 16, 16, 0, True)
    assert info.size_bytes == (tmp_path / "a.mp4").stat().st_size
    assert info.times_s == pytest.approx([i / 16 for i in range(65)], abs=1e-3)
    assert read_info(tmp_path / "a.mp4") == info


def test_duration_is_exact_at_the_threshold_of_curation(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", numbered(65), 65)
    assert probe(tmp_path / "a.mp4").duration_s == 1.0


def test_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    times_ms = [0, 40, 50, 400, 410, 900, 1000, 1010, 1500, 2000]
    info = probe(encode(tmp_path / "a.mp4", numbered(10), times_ms=times_ms))
    assert info.times_s == pytest.approx([t / 1000 for t in times_ms], abs=1e-3)
    assert all(a < b for a, b in pairwise(info.times_s))


@pytest.mark.parametrize(("turn", "size"), [(90, (48, 64)), (180, (64, 48)), (270, (48, 64))])
def test_size_is_that_of_the_upright_picture(tmp_path: Path, turn: int, size: tuple[int, int]) -> None:
    info = probe(encode(tmp_path / "a.mp4", numbered(5), rotation_deg=turn))
    assert (info.width_px, info.height_px) == size
    assert info.rotation_deg == turn


@pytest.mark.parametrize(
    ("codec", "options", "seekable"),
    [
        ("libx264", {"g": "24", "bf": "3"}, True),
        ("libx264", {"x264-params": "open-gop=1:bframes=3:keyint=24:scenecut=0"}, False),
        ("libx265", {"x265-params": "keyint=24:bframes=4:log-level=none"}, False),
    ],
)
def test_open_gops_are_seen(tmp_path: Path, codec: str, options: dict[str, str], seekable: bool) -> None:
    assert probe(encode(tmp_path / "a.mp4", numbered(100), codec=codec, options=options)).seekable is seekable


@pytest.mark.parametrize(
    ("suffix", "codec", "share"),
    [(suffix, codec, share) for suffix, codec in CONTAINERS for share in (0.5, 0.8)]
    + [(suffix, codec, 0.99) for suffix, codec in CONTAINERS[:2]],  # the others end with a table nobody needs
)
def test_a_file_cut_off_is_called_that(tmp_path: Path, suffix: str, codec: str, share: float) -> None:
    whole = encode(tmp_path / f"whole{suffix}", numbered(100), codec=codec)
    with pytest.raises(VideoError, match="cut off"):
        probe(truncate(whole, tmp_path / f"cut{suffix}", share))


def test_an_mp4_without_its_index_is_called_that(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", numbered(65), 16)
    with pytest.raises(VideoError, match=r"index \(moov\) is missing or damaged: cut off"):
        probe(truncate(tmp_path / "a.mp4", tmp_path / "cut.mp4", 0.005))
    for share in (0.02, 0.05, 0.1, 0.2):
        with pytest.raises(VideoError, match="cut off"):
            probe(truncate(tmp_path / "a.mp4", tmp_path / "cut.mp4", share))


def test_what_is_not_a_video_is_told_in_words(tmp_path: Path) -> None:
    files = {
        "text.mp4": b"This is a text file that somebody renamed.\n",
        "empty.mp4": b"",
        "playlist.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://example.com/a.ts\n",
        "noise.mp4": os.urandom(5000),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe.mp4")
    expected = {
        "text.mp4": "is not a video",
        "empty.mp4": r"empty \(0 bytes\)",
        "playlist.mp4": "is not a video",
        "noise.mp4": "is not a video",
        "pipe.mp4": "is not a regular file",
        "missing.mp4": "No such file",
    }
    for name, message in expected.items():
        with pytest.raises(VideoError, match=message):
            probe(tmp_path / name)
        with pytest.raises(VideoError, match=message):
            read_info(tmp_path / name)


def test_sound_alone_is_not_a_video(tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    with pytest.raises(VideoError, match="no video stream, only audio"):
        probe(tmp_path / "a.wav")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_called_that(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", numbered(9), 16)
    (tmp_path / "a.mp4").chmod(0)
    with pytest.raises(VideoError, match="permission denied"):
        probe(tmp_path / "a.mp4")
