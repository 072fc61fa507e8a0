"""The shapes world: scenes of one to three coloured shapes, and how they look at any moment.

A scene is one of three kinds. *Motion*: one object walks an L-shaped path in two legs, so that its order in time
matters. *Relation*: two objects stand in one of four relations. *Count*: one to three equal objects. Objects that do
not travel bob gently, because a still clip is what curation rejects.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]  # F H W 3, RGB
Colour = Literal["red", "green", "blue", "yellow", "purple", "cyan"]
Shape = Literal["circle", "square", "triangle"]
Direction = Literal["left", "right", "up", "down"]
Relation = Literal["left", "right", "above", "below"]
Path = tuple[Direction, Direction]
Kind = Literal["motion", "relation", "count"]

SIZE_PX = 64
CLIP_FRAMES = 65
CLIP_FPS = 16.0
MODEL_FRAMES = 9
BACKGROUND = (232, 230, 224)
RGB: dict[Colour, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 200, 20),
    "purple": (160, 40, 190),
    "cyan": (20, 190, 210),
}
COLOURS: tuple[Colour, ...] = tuple(RGB)
SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle")
RELATIONS: tuple[Relation, ...] = ("left", "right", "above", "below")
STEP: dict[Direction, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
PATHS: tuple[Path, ...] = tuple(
    (first, second)
    for first, second in itertools.product(STEP, repeat=2)
    if STEP[first][0] * STEP[second][0] == 0 and STEP[first][1] * STEP[second][1] == 0
)
"""The eight L-shaped paths: the second leg is perpendicular to the first, so none equals its own reversal."""

_LEG_PX = 26.0
_BOB_PX = 1.5
_BOBS_PER_CLIP = 2
_SUBPIXEL_BITS = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thing:
    """One object: what it is, and where its centre is in the first frame (pixels)."""

    colour: Colour
    shape: Shape
    x_px: float
    y_px: float
    radius_px: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """What a clip shows. `relation` holds between `things[0]` and `things[1]`; `path` is walked by `things[0]`."""

    kind: Kind
    things: tuple[Thing, ...]
    relation: Relation | None = None
    path: Path | None = None


def sample_scene(rng: random.Random, kind: Kind | None = None) -> Scene:
    """Draw a scene; kinds are equally likely unless one is named."""
    kind = kind or rng.choice(("motion", "relation", "count"))
    colour, shape = rng.choice(COLOURS), rng.choice(SHAPES)
    if kind == "motion":
        return motion_scene(rng, colour, shape, rng.choice(PATHS))
    if kind == "relation":
        other = rng.choice([c for c in COLOURS if c != colour])
        return relation_scene(rng, (colour, shape), (other, rng.choice(SHAPES)), rng.choice(RELATIONS))
    return count_scene(rng, colour, shape, rng.randint(1, 3))


def motion_scene(rng: random.Random, colour: Colour, shape: Shape, path: Path) -> Scene:
    """One object that walks `path`, both legs within the frame."""
    (ax, ay), (bx, by) = STEP[path[0]], STEP[path[1]]
    centre = SIZE_PX / 2
    x = centre - (ax + bx) * _LEG_PX / 2 + rng.uniform(-5, 5)
    y = centre - (ay + by) * _LEG_PX / 2 + rng.uniform(-5, 5)
    thing = Thing(colour=colour, shape=shape, x_px=x, y_px=y, radius_px=rng.uniform(9, 11))
    return Scene(kind="motion", things=(thing,), path=path)


def relation_scene(
    rng: random.Random, first: tuple[Colour, Shape], second: tuple[Colour, Shape], relation: Relation
) -> Scene:
    """`first` stands left of, right of, above or below `second`."""
    dx, dy = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}[relation]
    things = []
    for side, (colour, shape) in ((1, first), (-1, second)):
        x = SIZE_PX / 2 + side * dx * 16 + rng.uniform(-4, 4)
        y = SIZE_PX / 2 + side * dy * 16 + rng.uniform(-4, 4)
        things.append(Thing(colour=colour, shape=shape, x_px=x, y_px=y, radius_px=rng.uniform(9, 11)))
    return Scene(kind="relation", things=tuple(things), relation=relation)


def count_scene(rng: random.Random, colour: Colour, shape: Shape, count: int) -> Scene:
    """`count` (1 to 3) equal objects on distinct quarters of the frame; a single one near the centre."""
    half, quarter = SIZE_PX / 2, SIZE_PX / 4
    spots = [(half, half)] if count == 1 else rng.sample([(sx, sy) for sx in (-1, 1) for sy in (-1, 1)], count)
    radius = rng.uniform(9, 11)
    things = []
    for sx, sy in spots:
        x, y = (sx, sy) if count == 1 else (half + sx * quarter, half + sy * quarter)
        jitter = 6 if count == 1 else 3
        things.append(
            Thing(
                colour=colour,
                shape=shape,
                x_px=x + rng.uniform(-jitter, jitter),
                y_px=y + rng.uniform(-jitter, jitter),
                radius_px=radius,
            )
        )
    return Scene(kind="count", things=tuple(things))


def render(scene: Scene, frames: int = CLIP_FRAMES) -> Frames:
    """Draw the clip at `frames` equally spaced moments, first and last included: uint8 F x 64 x 64 x 3."""
    moments = [i / (frames - 1) for i in range(frames)]
    return np.stack([_draw(scene, moment) for moment in moments])


def _draw(scene: Scene, moment: float) -> npt.NDArray[np.uint8]:
    image = np.full((SIZE_PX, SIZE_PX, 3), BACKGROUND, dtype=np.uint8)
    for thing in scene.things:
        dx, dy = _offset(scene, moment)
        points = _outline(thing.shape, thing.x_px + dx, thing.y_px + dy, thing.radius_px)
        fixed = np.round(np.array(points) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(image, [fixed], RGB[thing.colour], lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
    return image


def _offset(scene: Scene, moment: float) -> tuple[float, float]:
    if scene.path is None:
        return 0.0, _BOB_PX * math.sin(2 * math.pi * _BOBS_PER_CLIP * moment)
    first, second = min(2 * moment, 1.0) * _LEG_PX, max(2 * moment - 1, 0.0) * _LEG_PX
    (ax, ay), (bx, by) = STEP[scene.path[0]], STEP[scene.path[1]]
    return ax * first + bx * second, ay * first + by * second


def _outline(shape: Shape, x: float, y: float, radius: float) -> Sequence[tuple[float, float]]:
    x, y = x - 0.5, y - 0.5  # cv2 puts pixel centres on integers
    if shape == "circle":
        return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 48)]
    if shape == "square":
        half = radius * 0.9
        return [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]
    half = radius * 1.08
    return [(x, y - half), (x + half, y + half * 0.85), (x - half, y + half * 0.85)]
