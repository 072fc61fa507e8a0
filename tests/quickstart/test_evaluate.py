"""Scores of videos on disk, between floor and ceiling."""

from pathlib import Path

import pytest

from mimir_ray.quickstart.evaluate import evaluate, fixed_prompts, requests_of
from mimir_ray.recipes import shapes
from mimir_ray.shapes.scoreboard import Share
from mimir_ray.shapes.world import render
from mimir_ray.video import write_mp4

COUNT = 6
CONFIG = shapes().generation


def test_requests_share_their_seeds_and_nothing_else() -> None:
    prompts = fixed_prompts(COUNT)
    base, mimir = (requests_of(prompts, model, CONFIG, 5) for model in ("base", "mimir"))
    assert [request.seed for request in base] == [*range(5, 5 + COUNT)] * 3
    assert [request.prompt for request in base] == [prompt.text for listed in prompts.values() for prompt in listed]
    assert not {request.request_id for request in base} & {request.request_id for request in mimir}
    assert [(one.prompt, one.seed) for one in base] == [(one.prompt, one.seed) for one in mimir]


def test_the_prompts_are_the_same_everywhere() -> None:
    assert fixed_prompts(COUNT) == fixed_prompts(COUNT)
    assert fixed_prompts(COUNT)["held"] == fixed_prompts(2 * COUNT)["held"][:COUNT]


def test_true_videos_reach_the_ceiling_and_missing_ones_score_nothing(tmp_path: Path) -> None:
    prompts = fixed_prompts(COUNT)
    good = [tmp_path / f"{index}.mp4" for index in range(3 * COUNT)]
    for file, prompt in zip(good, (prompt for listed in prompts.values() for prompt in listed), strict=True):
        write_mp4(file, render(prompt.scene, CONFIG.num_frames), CONFIG.fps)
    none = [tmp_path / "missing.mp4"] * len(good)
    answers = [f"answer {index}" for index in range(len(good))]
    found = evaluate(prompts, {"base": none, "Mimir": good}, tmp_path / "truth", CONFIG, answers)

    assert set(found.scores) == {"long", "seen", "held"}
    for axes in found.scores.values():
        assert axes["all"]["Mimir"] == axes["all"]["ceiling"] == Share(COUNT, COUNT)
        assert axes["all"]["floor"].right < COUNT
        assert not any(shares["base"].right for shares in axes.values())
    assert [example.answer for example in found.examples] == answers
    assert found.figures()["held"]["colour"]["Mimir"] == {
        "right": 6,
        "of": 6,
        "interval": pytest.approx([0.61, 1], abs=0.01),
    }
    (long, _), (held, (black, video)) = next(found.of("long")), next(found.of("held"))
    assert (long.meaning, held.prompt_set) == ("", "held")
    assert held.meaning
    assert black.max() == 0
    assert video.shape == (CONFIG.num_frames, 64, 64, 3)
