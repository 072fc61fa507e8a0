"""The language says what the scene shows, and keeps held-out nicknames out of every clip."""

import itertools
import random

import pytest

from mimir_ray.shapes import language
from mimir_ray.shapes.dataset import clip_scene
from mimir_ray.shapes.prompts import PROMPT_SETS, evaluation_prompts
from mimir_ray.shapes.world import COLOURS, SHAPES, sample_scene


def test_every_object_has_seen_and_held_nicknames_and_none_is_shared() -> None:
    names = list(itertools.chain.from_iterable([*language.SEEN.values(), *language.HELD.values()]))
    assert len(language.SEEN) == len(language.HELD) == len(COLOURS) * len(SHAPES)
    assert len(names) == len(set(names))
    assert not set(names) & {*COLOURS, *SHAPES}


def test_clips_never_say_a_held_nickname() -> None:
    held = set(itertools.chain.from_iterable(language.HELD.values()))
    for index in range(500):
        scene, rng = clip_scene(0, index), random.Random(index)
        words = f"{language.long_caption(scene, rng)} {language.short_caption(scene, rng)}".split()
        assert not held & {word.removesuffix("s") for word in words}


@pytest.mark.parametrize("index", range(30))
def test_explanations_and_long_captions_name_every_object(index: int) -> None:
    rng = random.Random(index)
    scene = sample_scene(rng)
    for text in (language.long_caption(scene, rng), language.explanation(scene, rng)):
        for thing in scene.things:
            assert f"{thing.colour} {thing.shape}" in text
        for word in scene.path or ():
            assert word in text


def test_instruction_answers_follow_the_order_of_the_instructions() -> None:
    scene = sample_scene(random.Random(1), "relation")
    first, second = scene.things
    answers = [answer(scene) for answer in language.INSTRUCTION_ANSWERS]
    assert answers == [
        f"{first.colour} {first.shape} and {second.colour} {second.shape}",
        f"{first.colour} and {second.colour}",
        "in place",
        f"{first.colour} {scene.relation} {second.colour}",
    ]


@pytest.mark.parametrize("prompt_set", PROMPT_SETS)
def test_prompt_sets_are_repeatable_and_balanced(prompt_set: str) -> None:
    prompts = evaluation_prompts(prompt_set, 30)  # type: ignore[arg-type]
    assert prompts == evaluation_prompts(prompt_set, 30)  # type: ignore[arg-type]
    kinds = [prompt.scene.kind for prompt in prompts]
    assert {kinds.count(kind) for kind in set(kinds)} == {10}


def test_held_prompts_name_objects_by_held_nicknames_only() -> None:
    for prompt in evaluation_prompts("held", 60):
        for thing in prompt.scene.things:
            assert any(name in prompt.text for name in language.HELD[thing.colour, thing.shape])
            assert thing.colour not in prompt.text.split()
