"""Adds up exact scores over many clips, with intervals, and puts floor and ceiling beside them."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Sequence

from mimir_ray.shapes.prompts import ScenePrompt
from mimir_ray.shapes.scorer import AXES, score
from mimir_ray.shapes.world import MODEL_FRAMES, Frames, render

_Z = 1.959964  # 95%


@dataclasses.dataclass(frozen=True)
class Share:
    """How many of `total` clips were right, with Wilson's 95% interval."""

    right: int
    total: int

    @property
    def value(self) -> float:
        return self.right / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        if not self.total:
            return (0.0, 1.0)
        n, p = self.total, self.value
        centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
        return (max(0.0, centre - half), min(1.0, centre + half))


Scores = dict[str, Share]
"""The share of right videos by axis; an axis that no clip had is missing."""


def tally(results: Iterable[dict[str, bool]]) -> Scores:
    """Add up the results of `scorer.score`."""
    listed = list(results)
    return {
        axis: Share(sum(result[axis] for result in listed if axis in result), count)
        for axis in AXES
        if (count := sum(axis in result for result in listed))
    }


def score_all(clips: Sequence[Frames], prompts: Sequence[ScenePrompt]) -> Scores:
    """Scores of clips that were made for these prompts, in the same order."""
    return tally(score(clip, prompt.scene) for clip, prompt in zip(clips, prompts, strict=True))


def floor(clips: Sequence[Frames], prompts: Sequence[ScenePrompt], seed: int = 0) -> Scores:
    """Chance: every clip is held against the prompt of another one, of the same kind of scene."""
    rng, results = random.Random(seed), []
    for kind in sorted({prompt.scene.kind for prompt in prompts}):
        rows = [row for row, prompt in enumerate(prompts) if prompt.scene.kind == kind]
        turn = rng.randrange(1, len(rows)) if len(rows) > 1 else 0
        results += [score(clips[a], prompts[b].scene) for a, b in zip(rows, rows[turn:] + rows[:turn], strict=True)]
    return tally(results)


def ceiling(prompts: Sequence[ScenePrompt], through: Callable[[Frames], Frames] = lambda frames: frames) -> Scores:
    """Ground truth: the prompts' own scenes, rendered and passed `through` what a clip goes through (an encoder)."""
    return score_all([through(render(prompt.scene, MODEL_FRAMES)) for prompt in prompts], prompts)
