"""The exact scorer against its controls: truth through an mp4 encoder, noise, shuffled captions, reversal, blank."""

import random

import cv2
import numpy as np
import pytest

from mimir_ray.shapes.dataset import clip_scene
from mimir_ray.shapes.prompts import ScenePrompt
from mimir_ray.shapes.scoreboard import Share, ceiling, floor, score_all, tally
from mimir_ray.shapes.scorer import AXES, find_blobs, score
from mimir_ray.shapes.world import CLIP_FPS, PATHS, SIZE_PX, Frames, motion_scene, render, sample_scene
from mimir_ray.video.read import read_frames
from mimir_ray.video.write import write_mp4

CLIPS = 120


@pytest.fixture(scope="module")
def prompts() -> list[ScenePrompt]:
    return [ScenePrompt("", clip_scene(7, index)) for index in range(CLIPS)]


@pytest.fixture(scope="module")
def truth(prompts: list[ScenePrompt], tmp_path_factory: pytest.TempPathFactory) -> list[Frames]:
    """Every ninth of a 65-frame clip after a round trip through the mp4 encoder."""
    path = tmp_path_factory.mktemp("truth") / "clip.mp4"
    clips = []
    for prompt in prompts:
        write_mp4(path, render(prompt.scene), CLIP_FPS)
        clips.append(read_frames(path, range(0, 65, 8)).frames)
    return clips


def test_ground_truth_is_right_on_every_axis(truth: list[Frames], prompts: list[ScenePrompt]) -> None:
    scores = score_all(truth, prompts)
    assert set(scores) == set(AXES)
    assert all(share.value >= 0.99 for share in scores.values()), scores


def test_blur_and_noise_hardly_matter(truth: list[Frames], prompts: list[ScenePrompt]) -> None:
    noise = np.random.default_rng(0)

    def spoil(frames: Frames) -> Frames:
        blurred = np.stack([cv2.GaussianBlur(frame, (3, 3), 0.8) for frame in frames]).astype(np.float64)
        return np.clip(blurred + noise.normal(0, 10, blurred.shape), 0, 255).astype(np.uint8)

    scores = score_all([spoil(clip) for clip in truth], prompts)
    assert all(share.value >= 0.98 for share in scores.values()), scores


def test_shuffled_captions_are_near_chance(truth: list[Frames], prompts: list[ScenePrompt]) -> None:
    scores = floor(truth, prompts)
    limits = {"colour": 0.25, "object": 0.4, "count": 0.5, "spatial": 0.1, "motion": 0.3, "all": 0.1}
    assert all(scores[axis].value <= limit for axis, limit in limits.items()), scores


def test_reversed_in_time_no_order_of_motion_is_right(truth: list[Frames], prompts: list[ScenePrompt]) -> None:
    scores = score_all([clip[::-1] for clip in truth], prompts)
    assert scores["motion"].value == 0
    assert scores["colour"].value >= 0.99


def test_blank_is_zero_on_every_axis(truth: list[Frames], prompts: list[ScenePrompt]) -> None:
    for value in (0, 128, 230, 255):
        scores = score_all([np.full_like(clip, value) for clip in truth], prompts)
        assert all(share.right == 0 for share in scores.values())


@pytest.mark.parametrize("path", PATHS)
def test_each_path_is_told_from_the_seven_others(path: tuple[str, str]) -> None:
    rng = random.Random(3)
    frames = render(motion_scene(rng, "blue", "square", path), 9)  # type: ignore[arg-type]
    right = [other for other in PATHS if score(frames, motion_scene(rng, "blue", "square", other))["motion"]]
    assert right == [path]


def test_an_extra_object_is_not_all_right() -> None:
    scene = sample_scene(random.Random(5), "motion")
    frames = render(scene, 9)
    frames[:, :14, :14] = (40, 80, 220) if scene.things[0].colour != "blue" else (214, 40, 40)
    assert not score(frames, scene)["all"]


def test_size_of_the_frame_does_not_matter() -> None:
    scene = sample_scene(random.Random(6), "relation")
    frames = np.stack([cv2.resize(f, (256, 256), interpolation=cv2.INTER_CUBIC) for f in render(scene, 9)])
    assert all(score(frames.astype(np.uint8), scene).values())
    assert find_blobs(np.full((SIZE_PX, SIZE_PX, 3), 232, np.uint8)) == []


def test_ceiling_is_one_and_intervals_hold_the_share(prompts: list[ScenePrompt]) -> None:
    scores = ceiling(prompts)
    assert scores["all"].value == 1
    low, high = scores["all"].interval
    assert 0.96 < low < 1 <= high + 1e-9
    low, high = Share(5, 10).interval
    assert (low, high) == (pytest.approx(0.2366, abs=1e-3), pytest.approx(0.7634, abs=1e-3))


def test_axes_that_do_not_apply_are_not_counted() -> None:
    scores = tally([{"colour": True, "all": False}, {"colour": False, "motion": True, "all": False}])
    assert (scores["colour"], scores["motion"], scores["all"]) == (Share(1, 2), Share(1, 1), Share(0, 2))
    assert "spatial" not in scores
