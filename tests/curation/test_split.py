"""Long videos become single shots, each a file and a row of its own."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mimir_ray.config import override
from mimir_ray.curation import CurationConfig
from mimir_ray.curation.config import Split
from mimir_ray.curation.split import spans
from mimir_ray.curation.tables import Row
from mimir_ray.storage import content_id
from mimir_ray.video import VideoError, VideoInfo, read_frames, read_info
from tests.curation.local import curate_here
from tests.curation.rendering import Video, moving, save

CONFIG = CurationConfig()


def info(frames: int, fps: float = 10) -> VideoInfo:
    """Facts of a video of a constant rate."""
    return VideoInfo(
        codec="h264",
        pixel_format="yuv420p",
        width_px=64,
        height_px=64,
        fps=fps,
        frames=frames,
        duration_s=frames / fps,
        rotation_deg=0,
        size_bytes=1,
        times_s=tuple(index / fps for index in range(frames)),
        seekable=True,
    )


def shots(*lengths: int) -> Video:
    """Shots of these many frames, that differ in everything."""
    colours = [(220, 40), (120, 200), (240, 150), (90, 250)]
    made = [moving(length, 64, 96, *colours[i % 4]) for i, length in enumerate(lengths)]
    return np.concatenate([shot if i % 2 else shot[..., ::-1] // (1, 2, 1) for i, shot in enumerate(made)]).astype(
        np.uint8
    )


@pytest.mark.parametrize(
    ("cuts", "frames", "expected"),
    [
        ([0], 50, [(0, 50)]),  # one shot is the whole video
        ([0, 20], 50, [(0, 20), (20, 50)]),
        ([0, 20, 29], 50, [(0, 20), (29, 50)]),  # 0.9 s is too short to be a clip
        ([0, 20, 30], 50, [(0, 20), (20, 30), (30, 50)]),  # 1 s is not
        ([0], 200, [(0, 200)]),  # 20 s is as long as a clip may be
        ([0], 209, [(0, 209)]),  # a rest of 0.9 s stays with its clip
        ([0], 230, [(0, 200), (200, 230)]),
        ([0], 650, [(0, 200), (200, 400), (400, 600), (600, 650)]),
    ],
)
def test_spans(cuts: list[int], frames: int, expected: list[tuple[int, int]]) -> None:
    assert spans(cuts, info(frames), Split()) == expected


def test_a_stride_shorter_than_a_clip_makes_clips_overlap() -> None:
    found = spans([0], info(100), Split(max_clip_s=4.0, stride_s=2.0))
    assert found == [(0, 40), (20, 60), (40, 80), (60, 100)]


def test_lengths_are_seconds_whatever_the_rate() -> None:
    times = tuple(np.cumsum([0.0] + [0.05] * 100 + [0.5] * 20).tolist())
    uneven = replace(info(121), times_s=times, duration_s=15.5)
    assert spans([0], uneven, Split(max_clip_s=5.0, stride_s=5.0)) == [(0, 100), (100, 110), (110, 121)]


def test_every_shot_becomes_a_clip_with_its_own_file_and_id(tmp_path: Path) -> None:
    path = save(tmp_path / "in" / "film.mp4", shots(70, 80, 10, 90))
    (tmp_path / "in" / "film.txt").write_text("A film.")
    videos, clips = curate_here([path], tmp_path / "out", CONFIG)
    assert [(row["status"], row["clips"]) for row in videos] == [("ok", 3)]
    assert [(row["frames"], row["start_s"], row["end_s"]) for row in clips] == [
        (70, 0.0, 70 / 16),
        (80, 70 / 16, 150 / 16),
        (90, 160 / 16, 250 / 16),
    ]
    for row in clips:
        assert row["status"] == "ok", row["reason"]
        assert row["clip_id"] == content_id(videos[0]["video_id"], f"{row['start_s']:.6f}-{row['end_s']:.6f}")
        assert read_info(row["path"]).frames == row["frames"]
    source = read_frames(path, [70, 100, 149]).frames.astype(int)
    cut = read_frames(clips[1]["path"], [0, 30, 79]).frames.astype(int)
    assert np.abs(source - cut).mean() < 3


def test_a_video_of_one_shot_stays_where_it_is(tmp_path: Path) -> None:
    path = save(tmp_path / "in" / "a.mp4", moving())
    _, clips = curate_here([path], tmp_path / "out", CONFIG)
    assert [row["path"] for row in clips] == [str(path)]
    assert not (tmp_path / "out" / "media").exists()


def test_copied_packets_are_the_videos_own(tmp_path: Path) -> None:
    path = save(tmp_path / "in" / "film.mp4", shots(70, 80))
    _, clips = curate_here([path], tmp_path / "out", override(CONFIG, ["split.mode=copy"]))
    assert len(clips) == 2
    for row in clips:
        first = round(row["start_s"] * 16)
        wanted = [0, row["frames"] // 2, row["frames"] - 1]
        ours = read_frames(row["path"], wanted).frames
        assert (ours == read_frames(path, [first + index for index in wanted]).frames).all()


def test_a_cut_that_fails_costs_that_clip_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mimir_ray.curation.split as module

    real = module.cut_clip

    def fails_once(path: str, out: str, begin: int, end: int, **settings: object) -> tuple[int, int]:
        if begin:
            raise VideoError("no frame can be decoded")
        return real(path, out, begin, end, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "cut_clip", fails_once)
    path = save(tmp_path / "in" / "film.mp4", shots(70, 80))
    videos, clips = curate_here([path], tmp_path / "out", CONFIG)
    fates: list[Row] = [{name: row[name] for name in ("status", "stage", "error", "reason")} for row in clips]
    assert videos[0]["clips"] == 2
    assert fates == [
        {"status": "ok", "stage": None, "error": None, "reason": ""},
        {"status": "quarantined", "stage": "split", "error": "VideoError", "reason": "split: no frame can be decoded"},
    ]


def test_a_clip_that_cannot_be_written_is_not_held_against_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, uri: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mimir_ray.curation.split.upload", full)
    path = save(tmp_path / "in" / "film.mp4", shots(70, 80))
    with pytest.raises(OSError, match=r"cannot be written: .*No space left.*make room or choose another --out"):
        curate_here([path], tmp_path / "out", CONFIG)
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_a_duplicate_is_not_cut_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "in" / "film.mp4", shots(70, 80))
    (tmp_path / "in" / "same.mp4").write_bytes(path.read_bytes())
    written: list[str] = []
    monkeypatch.setattr("mimir_ray.curation.split.upload", lambda made, uri: written.append(uri))
    videos, clips = curate_here([tmp_path / "in"], tmp_path / "out", override(CONFIG, ["limits.probe_timeout_s=30"]))
    assert [row["status"] for row in videos] == ["ok", "rejected"]
    assert len(written) == len(clips) == 2


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("limits.max_file_bytes=100", r"has [\d,]+ bytes, at most 100 are taken \(limits.max_file_bytes\)"),
        (
            "limits.max_pixels=4000",
            r"has frames of 64x64 = 4,096 pixels, at most 4,000 are taken \(limits.max_pixels\)",
        ),
        ("limits.max_duration_s=4", r"has 4.1 s, at most 4.0 are taken \(limits.max_duration_s\)"),
        ("limits.max_frames=64", r"has 65 frames, at most 64 are taken \(limits.max_frames\)"),
    ],
)
def test_what_is_beyond_the_limits_is_not_tried(tmp_path: Path, setting: str, words: str) -> None:
    path = save(tmp_path / "in" / "a.mp4", moving())
    videos, clips = curate_here([path], tmp_path / "out", override(CONFIG, [setting]))
    assert clips == []
    assert videos[0]["status"] == "quarantined"
    assert re.search(words, videos[0]["reason"]), videos[0]["reason"]
