"""The exact scorer: what a clip of the shapes world shows, read by classical vision, held against its scene.

Every frame is segmented by colour, every blob named by how much of its bounding box it fills, and an axis counts as
right when it is right in more than half of the frames. Axes:

* colour: the colours shown are the scene's, no other;
* object: the shapes shown are the scene's;
* count: as many objects as the scene has (count scenes only);
* spatial: both objects, known by their colours, stand in the scene's relation (relation scenes only);
* motion: the two legs of the path, in order (motion scenes only);
* all: every axis that applies, the number of objects, and each colour on its own shape.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mimir_ray.shapes.world import BACKGROUND, COLOURS, RGB, SIZE_PX, Colour, Direction, Frames, Path, Scene, Shape

AXES = ("colour", "object", "count", "spatial", "motion", "all")

_MIN_AREA = 70 / SIZE_PX**2  # a third of the smallest object; less is noise
_MAX_AREA = 0.2  # twice the largest object; more is a background
_MIN_SATURATION = 0.45  # of the way from the background to the pure colour
_TRIANGLE_FILL, _CIRCLE_FILL = 0.65, 0.89  # triangle 0.5, circle 0.785, square 1.0 of the bounding box
_MIN_LEG = 8 / SIZE_PX
_MIN_APART = 8 / SIZE_PX
_PALETTE = np.array([BACKGROUND, *(RGB[colour] for colour in COLOURS)], dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Blob:
    """One object found in one frame; position and area relative to the frame's size."""

    colour: Colour
    shape: Shape
    x: float
    y: float
    area: float


def score(frames: Frames, scene: Scene) -> dict[str, bool]:
    """Hold a clip (uint8 F x H x W x 3) against its scene; only the axes that apply are in the result."""
    seen = [find_blobs(frame) for frame in frames]
    colours = {thing.colour for thing in scene.things}
    shapes = {thing.shape for thing in scene.things}
    result = {
        "colour": _most(seen, lambda blobs: {blob.colour for blob in blobs} == colours),
        "object": _most(seen, lambda blobs: {blob.shape for blob in blobs} == shapes),
    }
    if scene.kind == "count":
        result["count"] = _most(seen, lambda blobs: len(blobs) == len(scene.things))
    if scene.kind == "relation":
        result["spatial"] = _most(seen, lambda blobs: _in_relation(blobs, scene))
    if scene.kind == "motion":
        result["motion"] = find_path(seen) == scene.path
    wanted = collections.Counter((thing.colour, thing.shape) for thing in scene.things)
    bound = _most(seen, lambda blobs: collections.Counter((blob.colour, blob.shape) for blob in blobs) == wanted)
    return {**result, "all": bound and all(result.values())}


def find_blobs(frame: npt.NDArray[np.uint8]) -> list[Blob]:
    """Every coloured object in one frame (H x W x 3), largest first."""
    height, width = frame.shape[:2]
    offset = cv2.medianBlur(frame, 3).astype(np.float32) - _PALETTE[0]
    directions = _PALETTE[1:] - _PALETTE[0]
    # How far each pixel went from the background towards each colour, and how far it lies off that line.
    along = offset @ directions.T / (directions**2).sum(axis=1)
    off = np.linalg.norm(offset[:, :, None] - np.clip(along, 0, 1.2)[..., None] * directions, axis=-1)
    nearest = off.argmin(axis=-1)
    strength = np.take_along_axis(along, nearest[..., None], axis=-1)[..., 0]
    blobs = []
    for index, colour in enumerate(COLOURS):
        mask = ((nearest == index) & (strength > _MIN_SATURATION)).astype(np.uint8)
        count, _, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=4)
        for label in range(1, count):
            _, _, box_width, box_height, area = stats[label]
            if not _MIN_AREA <= area / (height * width) <= _MAX_AREA:
                continue
            fill = area / (box_width * box_height)
            shape: Shape = "triangle" if fill < _TRIANGLE_FILL else "circle" if fill < _CIRCLE_FILL else "square"
            x, y = centres[label]
            blobs.append(Blob(colour, shape, (x + 0.5) / width, (y + 0.5) / height, area / (height * width)))
    return sorted(blobs, key=lambda blob: -blob.area)


def find_path(seen: Sequence[Sequence[Blob]]) -> Path | None:
    """The two legs that the largest object walks in the first and the second half, None where there are not two."""
    if not seen or any(not seen[i] for i in (0, len(seen) // 2, -1)):
        return None
    points = [np.array([seen[i][0].x, seen[i][0].y]) for i in (0, len(seen) // 2, -1)]
    first, second = _direction(points[1] - points[0]), _direction(points[2] - points[1])
    return (first, second) if first and second else None


def _direction(leg: npt.NDArray[np.float64]) -> Direction | None:
    dx, dy = float(leg[0]), float(leg[1])
    if max(abs(dx), abs(dy)) < _MIN_LEG or min(abs(dx), abs(dy)) > 0.6 * max(abs(dx), abs(dy)):
        return None
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def _in_relation(blobs: Sequence[Blob], scene: Scene) -> bool:
    pair = []
    for thing in scene.things:
        match = [blob for blob in blobs if blob.colour == thing.colour]
        if not match:
            return False
        pair.append(match[0])
    dx, dy = pair[0].x - pair[1].x, pair[0].y - pair[1].y
    across, along = (dy, dx) if scene.relation in ("left", "right") else (dx, dy)
    sign = -1 if scene.relation in ("left", "above") else 1
    return bool(sign * along > _MIN_APART and abs(along) > abs(across))


def _most(seen: Sequence[list[Blob]], holds: Callable[[list[Blob]], bool]) -> bool:
    return sum(holds(blobs) for blobs in seen) > len(seen) / 2
