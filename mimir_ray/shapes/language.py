"""The language of the shapes world: long explicit captions, short ones with nicknames, and what a prompt means.

A nickname names a colour and a shape at once ("apple": red circle). *Seen* nicknames occur in captions of clips.
*Held* ones never do: only the text that the decoder-only LLM was trained on explains them, so a model that reads T5
alone cannot know what they look like. That gap in knowledge is made on purpose; it is what Mimir is to close.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal

from mimir_ray.shapes.world import Colour, Path, Relation, Scene, Shape, Thing

Naming = Literal["explicit", "seen", "held"]

_NICKNAMES: dict[tuple[Colour, Shape], tuple[str, str, str]] = {  # two seen, one held
    ("red", "circle"): ("apple", "ember", "garnet"),
    ("red", "square"): ("brick", "barn", "wagon"),
    ("red", "triangle"): ("flame", "cone", "volcano"),
    ("green", "circle"): ("pea", "lime", "olive"),
    ("green", "square"): ("lawn", "meadow", "court"),
    ("green", "triangle"): ("pine", "fir", "cedar"),
    ("blue", "circle"): ("marble", "planet", "bubble"),
    ("blue", "square"): ("pool", "tile", "window"),
    ("blue", "triangle"): ("sail", "iceberg", "fin"),
    ("yellow", "circle"): ("sun", "lemon", "coin"),
    ("yellow", "square"): ("cracker", "taxi", "sponge"),
    ("yellow", "triangle"): ("nacho", "wedge", "pennant"),
    ("purple", "circle"): ("plum", "grape", "fig"),
    ("purple", "square"): ("quilt", "cushion", "curtain"),
    ("purple", "triangle"): ("wizard", "shawl", "amulet"),
    ("cyan", "circle"): ("pearl", "lagoon", "dewdrop"),
    ("cyan", "square"): ("glacier", "mint", "screen"),
    ("cyan", "triangle"): ("crystal", "kite", "shard"),
}
SEEN: dict[tuple[Colour, Shape], tuple[str, ...]] = {thing: names[:2] for thing, names in _NICKNAMES.items()}
HELD: dict[tuple[Colour, Shape], tuple[str, ...]] = {thing: names[2:] for thing, names in _NICKNAMES.items()}

_RELATION_LONG: dict[Relation, tuple[str, ...]] = {
    "left": ("is to the left of", "stands left of", "is on the left of"),
    "right": ("is to the right of", "stands right of", "is on the right of"),
    "above": ("is above", "stands above", "is placed above"),
    "below": ("is below", "stands below", "is placed below"),
}
_RELATION_SHORT: dict[Relation, tuple[str, ...]] = {
    "left": ("left of", "west of"),
    "right": ("right of", "east of"),
    "above": ("over", "atop"),
    "below": ("under", "beneath"),
}
_COMPASS = {"left": "west", "right": "east", "up": "north", "down": "south"}
_NUMBER = {1: "one", 2: "two", 3: "three"}
_GROUP = {1: "a lone", 2: "a pair of", 3: "a trio of"}


def long_caption(scene: Scene, rng: random.Random) -> str:
    """An explicit caption: every colour, shape, relation, number and direction is said in plain words."""
    things = [f"{thing.colour} {thing.shape}" for thing in scene.things]
    if scene.path is not None:
        first, second = scene.path
        return rng.choice(
            (
                f"a {things[0]} moves {first} and then {second}",
                f"a {things[0]} goes {first} first and {second} after that",
                f"a {things[0]} slides {first} before it moves {second}",
            )
        )
    if scene.relation is not None:
        return f"a {things[0]} {rng.choice(_RELATION_LONG[scene.relation])} a {things[1]}"
    counted = f"{_NUMBER[len(things)]} {things[0]}" + ("s" if len(things) > 1 else "")
    verb = "stay" if len(things) > 1 else "stays"
    return rng.choice((f"{counted} {verb} in place", f"{counted} on a plain background"))


def short_caption(scene: Scene, rng: random.Random, naming: Naming = "seen") -> str:
    """A short caption with synonyms and nicknames (or, with `naming="explicit"`, colour and shape)."""
    things = [name(thing, rng, naming) for thing in scene.things]
    if scene.path is not None:
        first, second = scene.path
        return rng.choice(
            (f"{things[0]} {first} then {second}", f"{things[0]} heads {_COMPASS[first]} then {_COMPASS[second]}")
        )
    if scene.relation is not None:
        return f"{things[0]} {rng.choice(_RELATION_SHORT[scene.relation])} {things[1]}"
    noun = things[0] + ("s" if len(things) > 1 else "")
    return f"{rng.choice((_NUMBER, _GROUP))[len(things)]} {noun}"


def name(thing: Thing, rng: random.Random, naming: Naming) -> str:
    """How a caption names an object: `red circle`, or one of its seen or held nicknames."""
    if naming == "explicit":
        return f"{thing.colour} {thing.shape}"
    return rng.choice((SEEN if naming == "seen" else HELD)[thing.colour, thing.shape])


def explanation(scene: Scene, rng: random.Random) -> str:
    """What the LLM answers to a caption: the meaning, spelt out, in one of several wordings."""
    things = [f"{thing.colour} {thing.shape}" for thing in scene.things]
    if scene.path is not None:
        first, second = scene.path
        return rng.choice(
            (
                f"a {things[0]} moves {first} then {second}",
                f"one {things[0]} going {first} then {second}",
                f"{first} then {second} moves a {things[0]}",
            )
        )
    if scene.relation is not None:
        return rng.choice(
            (
                f"a {things[0]} {scene.relation} of a {things[1]}",
                f"a {things[0]} is {scene.relation} a {things[1]}",
                f"{scene.relation}: a {things[0]}, then a {things[1]}",
            )
        )
    counted = f"{_NUMBER[len(things)]} {things[0]}" + ("s" if len(things) > 1 else "")
    return rng.choice((f"{counted} in place", f"there are {counted}" if len(things) > 1 else f"there is {counted}"))


def objects_answer(scene: Scene) -> str:
    """The answer to the instruction that asks for objects."""
    return " and ".join(f"{thing.colour} {thing.shape}" for thing in scene.things)


def colours_answer(scene: Scene) -> str:
    """The answer to the instruction that asks for colours."""
    return " and ".join(thing.colour for thing in scene.things)


def motion_answer(scene: Scene) -> str:
    """The answer to the instruction that asks for motion."""
    return f"{scene.path[0]} then {scene.path[1]}" if scene.path else "in place"


def relations_answer(scene: Scene) -> str:
    """The answer to the instruction that asks for spatial relations."""
    if scene.relation is None:
        return "no relation"
    first, second = scene.things
    return f"{first.colour} {scene.relation} {second.colour}"


INSTRUCTION_ANSWERS: Sequence[Callable[[Scene], str]] = (
    objects_answer,
    colours_answer,
    motion_answer,
    relations_answer,
)
"""The answers in the order of the model's four instructions: objects, colours, motion, spatial relations."""


def parse_target(scene: Scene) -> str:
    """The canonical form of a scene's meaning: what T5 learns to read out of an explicit caption."""
    things = " ".join(f"{thing.colour} {thing.shape}" for thing in scene.things[: 2 if scene.relation else 1])
    path: Path | None = scene.path
    if path is not None:
        return f"{things} {path[0]} {path[1]}"
    return f"{things} {scene.relation}" if scene.relation else f"{things} {_NUMBER[len(scene.things)]}"
