"""Scores of the shapes world with their intervals, between a floor and a ceiling that are measured, not assumed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mimir_ray.shapes.prompts import ScenePrompt
from mimir_ray.shapes.scorer import AXES, score
from mimir_ray.shapes.world import Frames, Scene

Z_95 = 1.959964

Verdict = Mapping[str, bool]
"""What the exact scorer says of one video: axis -> right; axes that do not apply are absent."""


@dataclass(frozen=True)
class Share:
    """``right`` of ``of`` videos."""

    right: int
    of: int

    @property
    def value(self) -> float:
        """The share, 0 to 1; of none it is 0."""
        return self.right / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval, which is honest at 0, at 1 and for few videos."""
        if not self.of:
            return 0.0, 1.0
        z2 = Z_95**2
        centre = (self.value + z2 / (2 * self.of)) / (1 + z2 / self.of)
        spread = self.value * (1 - self.value) / self.of + z2 / (4 * self.of**2)
        half = Z_95 * math.sqrt(spread) / (1 + z2 / self.of)
        return max(0.0, centre - half), min(1.0, centre + half)

    def above(self, other: "Share") -> bool:
        """Whether even the low end of this interval is above the high end of the other."""
        return self.interval[0] > other.interval[1]


def tally(verdicts: Iterable[Verdict]) -> dict[str, Share]:
    """The share of right videos on each axis, in the scorer's order, of the videos to which the axis applies."""
    found = list(verdicts)
    applies = {axis: [verdict[axis] for verdict in found if axis in verdict] for axis in AXES}
    return {axis: Share(sum(right), len(right)) for axis, right in applies.items() if right}


def judge(videos: Sequence[Frames], prompts: Sequence[ScenePrompt]) -> list[Verdict]:
    """Each video (F H W 3) against the scene that its prompt asks for."""
    return [score(frames, prompt.scene) for frames, prompt in zip(videos, prompts, strict=True)]


def judge_shuffled(videos: Sequence[Frames], prompts: Sequence[ScenePrompt]) -> list[Verdict]:
    """Each video against the scene of the next prompt of its kind: what a model gets that does not read."""
    scenes = [prompt.scene for prompt in prompts]
    return [score(frames, scenes[_next_of_kind(scenes, index)]) for index, frames in enumerate(videos)]


def _next_of_kind(scenes: Sequence[Scene], index: int) -> int:
    places = [place for place, scene in enumerate(scenes) if scene.kind == scenes[index].kind]
    return places[(places.index(index) + 1) % len(places)]
