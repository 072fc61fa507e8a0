import os
import signal
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode

from mimir_ray.video import ShotFinder, VideoError, read, read_shots
from mimir_ray.video.shots import Detector
from tests.video.rendering import encode, shots, spoil, truncate

LENGTHS = [30, 17, 40, 8, 25]
BEGINS = [0, *accumulate(LENGTHS[:-1])]
VARIABLE_MS = np.cumsum(np.random.default_rng(0).integers(10, 120, sum(LENGTHS))).tolist()
VARIANTS: dict[str, dict[str, Any]] = {
    "b-frames.mp4": {"options": {"bf": "3", "g": "24"}},
    "open-gop.mp4": {"options": {"x264-params": "open-gop=1:bframes=3:keyint=24:scenecut=0"}},
    "open-gop-hevc.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=24:bframes=4:log-level=none"}},
    "variable.mp4": {"times_ms": VARIABLE_MS, "fps": 30, "options": {"bf": "2", "g": "24"}},
    "ten-bit.mp4": {"pixel_format": "yuv420p10le"},
    "b-frames.avi": {"codec": "mpeg4", "options": {"bf": "2", "b": "4000000"}},
    "rotated.mp4": {"rotation_deg": 90},
}
THRESHOLDS: dict[Detector, float] = {"content": 27.0, "adaptive": 3.0}


def found(path: Path, detector: Detector = "content", min_shot_s: float = 0.0, timeout_s: float = 60) -> list[int]:
    threshold = THRESHOLDS[detector]
    return read_shots(path, detector=detector, threshold=threshold, min_shot_s=min_shot_s, timeout_s=timeout_s)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("detector", THRESHOLDS)
def test_shots_begin_at_the_frames_after_cuts(tmp_path: Path, name: str, detector: Detector) -> None:
    path = encode(tmp_path / name, shots(LENGTHS), **VARIANTS[name])
    assert found(path, detector) == BEGINS


@pytest.mark.parametrize("detector", THRESHOLDS)
def test_a_picture_that_moves_is_one_shot(tmp_path: Path, detector: Detector) -> None:
    assert found(encode(tmp_path / "a.mp4", shots([120])), detector) == [0]
    assert found(encode(tmp_path / "b.mp4", shots([1])), detector) == [0]


def test_large_frames_are_compared_small(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", shots([10, 10], 288, 512))
    how: dict[str, Any] = {"detector": "content", "threshold": 27.0, "min_shot_s": 0.0, "timeout_s": 60}
    assert read_shots(path, **how) == read_shots(path, **how, short_side_px=16) == [0, 10]


def test_the_least_length_of_a_shot_counts_seconds_not_frames(tmp_path: Path) -> None:
    frames = shots([20, 6, 20])
    steady = encode(tmp_path / "steady.mp4", frames, fps=16)  # the second shot lasts 0.375 s
    assert found(steady, min_shot_s=0.375) == [0, 20, 26]
    assert found(steady, min_shot_s=0.4) == [0, 20]
    slow_ms = [*range(0, 1200, 60), *range(1200, 1800, 100), *range(1800, 2000, 10)]  # here it lasts 0.6 s
    slow = encode(tmp_path / "slow.mp4", frames, times_ms=slow_ms, fps=100)
    assert found(slow, min_shot_s=0.6) == [0, 20, 26]
    assert found(slow, min_shot_s=0.61) == [0, 20]
    assert found(steady, min_shot_s=60) == [0]


def test_a_damaged_file_is_an_error_and_the_next_file_is_fine(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.mp4", shots([20, 20]))
    with pytest.raises(VideoError, match="damaged: decoding stops at frame"):
        found(spoil(whole, tmp_path / "spoilt.mp4", 0.7))
    with pytest.raises(VideoError, match="cut off"):
        found(truncate(whole, tmp_path / "cut.mp4", 0.5))
    assert found(whole) == [0, 20]


def test_a_search_that_hangs_is_stopped_at_its_limit(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", shots([20]))
    assert found(path) == [0]
    os.kill(read._scanner.child()._process.pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(VideoError, match=r"stopped after its limit of 0\.5 s"):
        found(path, timeout_s=0.5)
    assert time.monotonic() - start < 10
    assert found(path) == [0]


def detected(detector: Any, pictures: np.ndarray) -> list[int]:
    """The frames at which PySceneDetect's own detector begins scenes."""
    cuts: list[Any] = []
    for number, picture in enumerate(pictures):
        cuts += detector.process_frame(FrameTimecode(number, fps=25.0), picture)
    return sorted(
        {cut.frame_num for cut in [*cuts, *detector.post_process(FrameTimecode(len(pictures) - 1, fps=25.0))]}
    )


def cuts_of(pictures: np.ndarray, detector: Detector, threshold: float) -> list[int]:
    finder, cuts = ShotFinder(detector, threshold), []
    for number, picture in enumerate(pictures):
        told = finder.add(picture)
        assert all(number - finder.lag <= cut <= number for cut in told)
        cuts += told
    return [*cuts, *finder.end()]


@pytest.mark.parametrize("seed", range(6))
def test_cuts_are_those_of_pyscenedetect_wherever_it_sees(seed: int) -> None:
    random = np.random.default_rng(seed)
    pictures = []
    for _ in range(12):  # of all lengths, bright and dull, steady and noisy
        picture = random.integers(0, random.integers(30, 256), (6, 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
        noise = random.integers(1, 60)
        pictures += [picture + random.integers(0, noise, picture.shape) for _ in range(random.integers(1, 12))]
    frames = np.clip(np.stack(pictures), 0, 255).astype(np.uint8)
    for threshold in (10.0, 27.0, 50.0):
        assert cuts_of(frames, "content", threshold) == detected(
            ContentDetector(threshold=threshold, min_scene_len=0), frames
        )
    for threshold in (1.5, 3.0, 5.0):
        own = detected(AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=0), frames)
        assert [cut for cut in cuts_of(frames, "adaptive", threshold) if 3 <= cut < len(frames) - 2] == [
            cut for cut in own if cut >= 3
        ]


@pytest.mark.parametrize("detector", THRESHOLDS)
@pytest.mark.parametrize("lengths", [[1, 40], [2, 40], [40, 1], [40, 2], [1, 40, 1], [2, 40, 2], [1, 1, 40]])
def test_a_few_frames_of_another_shot_are_seen_at_the_ends(detector: Detector, lengths: list[int]) -> None:
    frames = np.ascontiguousarray(shots(lengths)[..., ::-1])
    found = cuts_of(frames, detector, THRESHOLDS[detector])
    if detector == "content" or lengths != [1, 1, 40]:
        assert found == [*accumulate(lengths[:-1])]
    else:
        assert 2 in found or 1 in found


@pytest.mark.parametrize(("detector", "shake_px"), [("content", 0), ("content", 1), ("adaptive", 0), ("adaptive", 2)])
def test_a_moving_or_shaking_camera_has_no_cut(detector: Detector, shake_px: int) -> None:
    random = np.random.default_rng(0)
    scene = np.kron(random.integers(0, 256, (20, 40, 3)), np.ones((16, 16, 1), int)).astype(np.uint8)
    places = [(40 + random.integers(-shake_px, shake_px + 1), 40 + i + random.integers(-shake_px, shake_px + 1))
              for i in range(60)]  # fmt: skip
    frames = np.stack([scene[top : top + 144, left : left + 256] for top, left in places])
    assert cuts_of(frames, detector, THRESHOLDS[detector]) == []
