"""Long videos become single shots, each a span and a row of its own."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimir_ray.config import UserError, override
from mimir_ray.curation import CurationConfig
from mimir_ray.curation.config import Split
from mimir_ray.curation.spans import shot_spans
from mimir_ray.curation.watch import Watched, watch
from mimir_ray.storage import content_id
from mimir_ray.video import read_frames
from tests.curation.local import curate_here
from tests.curation.rendering import moving, save, shots

CONFIG = CurationConfig()


def even(frames: int, fps: float = 10) -> list[float]:
    """Times of a video of a constant rate, its end behind them."""
    return [index / fps for index in range(frames + 1)]


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
    assert shot_spans(cuts, even(frames), Split()) == expected


def test_a_shot_is_as_long_as_its_frames_say_wherever_it_begins() -> None:
    assert 1.4 - 0.4 < 1.0, "times are floats"
    assert shot_spans([0, 4, 14], even(30), Split()) == [(4, 14), (14, 30)]
    for cut in range(10, 100):
        assert shot_spans([0, cut], even(cut + 10), Split()) == [(0, cut), (cut, cut + 10)], "1 s is enough"
        assert shot_spans([0, cut], even(cut + 210), Split()) == [(0, cut), (cut, cut + 210)], "21 s are one clip"


def test_a_stride_shorter_than_a_clip_makes_clips_overlap() -> None:
    found = shot_spans([0], even(100), Split(max_clip_s=4.0, stride_s=2.0))
    assert found == [(0, 40), (20, 60), (40, 80), (60, 100)]


def test_lengths_are_seconds_whatever_the_rate() -> None:
    times_s = np.cumsum([0.0] + [0.05] * 100 + [0.5] * 21).tolist()
    assert shot_spans([0], times_s, Split(max_clip_s=5.0, stride_s=5.0)) == [(0, 100), (100, 110), (110, 121)]


def test_every_shot_becomes_a_span_with_an_id_and_scores_of_its_own(tmp_path: Path) -> None:
    path = save(tmp_path / "in" / "film.mp4", shots(70, 80, 10, 90))
    (tmp_path / "in" / "film.txt").write_text("A film.")
    out = tmp_path / "out"
    videos, clips = curate_here([path], out, CONFIG)
    assert [(row["status"], row["clips"], row["shots"], row["short_shots"]) for row in videos] == [("ok", 3, 4, 1)]
    assert [(row["first_frame"], row["frames"], row["start_s"], row["end_s"]) for row in clips] == [
        (0, 70, 0.0, 70 / 16),
        (70, 80, 70 / 16, 150 / 16),
        (160, 90, 160 / 16, 250 / 16),
    ]
    whole, size_bytes = read_frames(path, range(250), decord=False).frames, path.stat().st_size
    for row in clips:
        assert row["status"] == "ok", row["reason"]
        assert row["clip_id"] == content_id(videos[0]["video_id"], f"{row['start_s']:.6f}-{row['end_s']:.6f}")
        assert (row["path"], row["video_id"], row["size_bytes"]) == (str(path), videos[0]["video_id"], size_bytes)
        assert row["times_s"] == [index / 16 for index in range(row["frames"])]
        assert (row["duration_s"], row["fps"]) == (row["frames"] / 16, 16)
        span = row["first_frame"], row["first_frame"] + row["frames"]
        assert (read_frames(path, range(row["frames"]), span=span).frames == whole[slice(*span)]).all()
    written = {file.suffix for file in out.rglob("*") if file.is_file()}
    assert written == {".parquet"}, "a clip has no file of its own"


def test_a_duplicate_is_not_watched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "in" / "film.mp4", shots(70, 80))
    (tmp_path / "in" / "same.mp4").write_bytes(path.read_bytes())
    watched: list[str] = []

    def counting(path: str, *rest: Any) -> Watched:
        watched.append(path)
        return watch(path, *rest)

    monkeypatch.setattr("mimir_ray.curation.split.watch", counting)
    videos, clips = curate_here([tmp_path / "in"], tmp_path / "out", CONFIG)
    assert [row["status"] for row in videos] == ["ok", "rejected"]
    assert (len(watched), len(clips)) == (1, 2)


def test_a_clip_may_not_be_shorter_than_the_steps_of_its_motion() -> None:
    words = r"split\.max_clip_s 1\.5 is not above 2 s, .*1 / measures\.motion_fps\): raise one of the two"
    short = ["split.max_clip_s=1.5", "measures.motion_fps=0.5"]
    with pytest.raises(UserError, match=words):
        override(CONFIG, short)
    override(CONFIG, ["split=off", "measures.motion_fps=0.5"])
    override(CONFIG, [*short, "measures.motion_fps=0.75"])


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
