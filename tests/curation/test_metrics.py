from itertools import pairwise

import cv2
import numpy as np
import pytest

from mimir_ray.curation.config import Farneback, Measures
from mimir_ray.curation.metrics import black_pixels, flow_magnitude, sample

MEASURES = Measures()


def test_a_clip_of_65_frames_is_looked_at_whole_and_moves_in_steps_of_half_a_second() -> None:
    sampling = sample([i / 16 for i in range(65)], MEASURES)
    assert sampling.quality == tuple(range(65))
    assert sampling.motion == tuple(pairwise(range(0, 65, 8)))


def test_long_clips_cost_no_more_than_the_limits_say() -> None:
    sampling = sample([i / 25 for i in range(25 * 3600)], MEASURES)
    assert len(sampling.quality) == 65
    assert len(sampling.motion) == 64
    assert sampling.quality[-1] == 25 * 3600 - 1
    assert all(12 <= b - a <= 13 for a, b in sampling.motion)


def test_a_variable_rate_is_sampled_by_time() -> None:
    times_s = [0.0, 0.1, 0.2, 0.3, 0.4, 0.9, 1.0, 3.0]
    assert sample(times_s, MEASURES).motion == ((0, 4), (4, 6), (6, 7))


@pytest.mark.parametrize(("times_s", "pairs"), [([0.0], ()), ([0.0, 0.1], ((0, 1),)), ([0.0, 0.1, 0.2], ((0, 2),))])
def test_clips_shorter_than_a_step(times_s: list[float], pairs: tuple[tuple[int, int], ...]) -> None:
    assert sample(times_s, MEASURES).motion == pairs


def test_flow_is_the_mean_length_over_the_diagonal() -> None:
    noise = np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), 3)
    grey = np.asarray(128 + 40 * texture / texture.std(), np.float32).clip(0, 255).astype(np.uint8)
    before, after = grey[20:148, 20:148], grey[20:148, 17:145]
    expected = 3 / np.hypot(128, 128)
    assert flow_magnitude(before, after, Farneback()) == pytest.approx(expected, rel=0.15)
    assert flow_magnitude(before, before, Farneback()) < 1e-4


def test_black_is_below_the_level() -> None:
    assert black_pixels(np.array([[31, 32], [0, 255]], np.uint8), 32) == 2
