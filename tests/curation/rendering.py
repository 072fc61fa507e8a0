"""Small videos that pass every rule of curation, and the parts to make one fall short of a single rule."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimir_ray.video import write_mp4

Video = NDArray[np.uint8]


def moving(frames: int = 65, height: int = 64, width: int = 64, background: int = 200, square: int = 60) -> Video:
    """F H W 3: a square that crosses a plain background."""
    video = np.full((frames, height, width, 3), background, np.uint8)
    for index in range(frames):
        left = 4 + index * (width - 24) // max(frames - 1, 1)
        video[index, height // 2 - 8 : height // 2 + 8, left : left + 16] = square
    return video


def shots(*lengths: int) -> Video:
    """Shots of these many frames, that differ in everything."""
    colours = [(220, 40), (120, 200), (240, 150), (90, 250)]
    made = [moving(length, 64, 96, *colours[i % 4]) for i, length in enumerate(lengths)]
    return np.concatenate([shot if i % 2 else shot[..., ::-1] // (1, 2, 1) for i, shot in enumerate(made)]).astype(
        np.uint8
    )


def half_black(columns: int, width: int = 80) -> Video:
    """65 frames, 64 pixels high, whose first `columns` of `width` columns are black."""
    video = np.full((65, 64, width, 3), 220, np.uint8)
    video[:, :, :columns] = 0
    return video


def blinking(black_frames: int, frames: int = 65) -> Video:
    """A bright video in which so many frames, spread evenly, are black."""
    video = moving(frames)
    video[np.linspace(0, frames - 1, black_frames).round().astype(int)] = 0
    return video


def save(path: Path, video: Video, fps: float = 16) -> Path:
    """Write an mp4 and return its path."""
    write_mp4(path, video, fps)
    return path
