"""Evaluation prompts of the shapes world: a caption together with the scene that it asks for."""

from __future__ import annotations

import dataclasses
import random
from typing import Literal, get_args

from mimir_ray.shapes.language import long_caption, short_caption
from mimir_ray.shapes.world import Kind, Scene, sample_scene

PromptSet = Literal["long", "seen", "held"]
PROMPT_SETS: tuple[PromptSet, ...] = get_args(PromptSet)


@dataclasses.dataclass(frozen=True)
class ScenePrompt:
    """A prompt and what a video of it must show (where exactly the objects stand is not asked)."""

    text: str
    scene: Scene


def evaluation_prompts(prompt_set: PromptSet, count: int, seed: int = 2025) -> list[ScenePrompt]:
    """`count` prompts, a third of each kind of scene.

    `long` says all in plain words; `seen` uses nicknames that occur in clips' captions, `held` those that never do.
    """
    rng = random.Random(f"{prompt_set}-{seed}")
    kinds: tuple[Kind, ...] = get_args(Kind)
    prompts = []
    for index in range(count):
        scene = sample_scene(rng, kinds[index % len(kinds)])
        text = long_caption(scene, rng) if prompt_set == "long" else short_caption(scene, rng, prompt_set)
        prompts.append(ScenePrompt(text, scene))
    return prompts
