"""Intervals, floors and ceilings."""

import random

import numpy as np
import pytest

from mimir_ray.quickstart.scores import Share, judge, judge_shuffled, tally
from mimir_ray.shapes.prompts import evaluation_prompts
from mimir_ray.shapes.world import MODEL_FRAMES, render


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (0, 0, 0.0, 1.0)],
)
def test_wilson_intervals_are_those_of_the_tables(right: int, of: int, low: float, high: float) -> None:
    assert Share(right, of).interval == pytest.approx((low, high), abs=5e-5)


def test_a_wilson_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = random.Random(0)
    covered = 0
    for _ in range(2000):
        low, high = Share(sum(rng.random() < 0.1 for _ in range(24)), 24).interval
        covered += low <= 0.1 <= high
    assert 0.92 < covered / 2000 < 0.99


def test_a_difference_is_claimed_only_where_intervals_do_not_touch() -> None:
    assert Share(23, 24).above(Share(2, 24))
    assert not Share(14, 24).above(Share(10, 24))
    assert not Share(0, 0).above(Share(0, 24))


def test_tally_counts_an_axis_only_where_it_applies() -> None:
    shares = tally([{"colour": True, "motion": False}, {"colour": False}, {"colour": True, "motion": True}])
    assert shares == {"colour": Share(2, 3), "motion": Share(1, 2)}
    assert tally([]) == {}


def test_true_videos_are_right_and_shuffled_ones_near_chance() -> None:
    prompts = evaluation_prompts("long", 36)
    videos = [render(prompt.scene, MODEL_FRAMES) for prompt in prompts]
    assert tally(judge(videos, prompts))["all"].value == 1.0
    shuffled = tally(judge_shuffled(videos, prompts))
    assert shuffled["all"].value < 0.15
    assert shuffled["colour"].value < 0.4


def test_a_black_video_is_right_on_nothing() -> None:
    prompts = evaluation_prompts("held", 6)
    black = [np.zeros((MODEL_FRAMES, 64, 64, 3), np.uint8)] * len(prompts)
    assert not any(share.right for share in tally(judge(black, prompts)).values())


def test_a_prompt_alone_of_its_kind_is_held_against_itself() -> None:
    prompts = evaluation_prompts("long", 1)
    videos = [render(prompts[0].scene, MODEL_FRAMES)]
    assert tally(judge_shuffled(videos, prompts))["all"].right == 1
