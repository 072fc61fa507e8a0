"""The exact scorer as validation takes it."""

import pickle

import numpy as np
import pytest

from mimir_ray.cli.scene_scorer import scorer_for
from mimir_ray.recipes import mimir_5b, shapes
from mimir_ray.shapes.prompts import PROMPT_SETS, evaluation_prompts
from mimir_ray.shapes.world import MODEL_FRAMES, render


@pytest.mark.parametrize("name", PROMPT_SETS)
def test_a_true_video_scores_one_and_an_empty_one_zero(name: str) -> None:
    scorer = pickle.loads(pickle.dumps(scorer_for(shapes())))
    for prompt in evaluation_prompts(name, 6):  # type: ignore[arg-type]
        frames = render(prompt.scene, MODEL_FRAMES)
        right = scorer(prompt.text, frames)
        assert right.value == 1.0
        assert right.detail["all"] is True
        assert scorer(prompt.text, np.full_like(frames, 230)).value == 0.0


def test_what_it_cannot_judge_has_no_score() -> None:
    scorer = scorer_for(shapes())
    assert scorer is not None
    assert scorer("an elephant on the moon", np.zeros((9, 64, 64, 3), np.uint8)) is None
    assert scorer_for(mimir_5b()) is None
