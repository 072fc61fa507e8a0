"""Renders a corpus of the shapes world: mp4 files with captions, and a handful that curation must not let pass."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mimir_ray.config import UserError
from mimir_ray.jsonl import text_lines
from mimir_ray.shapes.language import long_caption, short_caption
from mimir_ray.shapes.world import CLIP_FPS, CLIP_FRAMES, Scene, count_scene, motion_scene, render, sample_scene
from mimir_ray.video.write import write_mp4

CAPTIONS_FILE = "captions.jsonl"


def clip_scene(seed: int, index: int) -> Scene:
    """The scene of one clip of a corpus, a function of the two numbers alone."""
    return sample_scene(random.Random(f"clip-{seed}-{index}"))


def render_corpus(out: str | Path, clips: int, seed: int = 0, workers: int | None = None) -> Path:
    """Write `clips` good clips, six bad ones and their captions under the local folder `out`.

    Files that exist are kept, so an interrupted call is continued by repeating it, and one for more clips adds to them.
    Every good clip has a long caption and a short one that names its objects by seen nicknames.

    Raises:
        UserError: the folder holds another corpus, whose clips these captions would not fit.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_caption_line(seed, index)) for index in range(clips)]
    _write_captions(folder / CAPTIONS_FILE, lines)
    wanted = [(str(folder), seed, index) for index in range(clips)]
    missing = [item for item in wanted if not _clip_path(folder, item[2]).exists()]
    if missing:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers or os.cpu_count(), mp_context=context) as pool:
            for _ in pool.map(_render_clip, missing, chunksize=16):
                pass
    bad = {name: make for name, make in BAD_CLIPS.items() if not (folder / name).exists()}
    for name, make in bad.items():
        make(folder / name)
    return folder


def _write_captions(file: Path, lines: list[str]) -> None:
    """Written before the clips, so that it tells whose they are."""
    there = [line for _, line in text_lines(file.read_bytes(), str(file))] if file.exists() else []
    if there[: len(lines)] != lines[: len(there)] or len(there) > len(lines):
        raise UserError(
            f"{file.parent} holds another corpus, of {len(there)} clips: choose another folder, remove it, or give the "
            "--seed that it was made with and no fewer --clips"
        )
    temporary = file.with_suffix(".tmp")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(file)


def _clip_path(folder: Path, index: int) -> Path:
    return folder / f"clip-{index:05d}.mp4"


def _render_clip(item: tuple[str, int, int]) -> None:
    folder, seed, index = item
    write_mp4(_clip_path(Path(folder), index), render(clip_scene(seed, index)), CLIP_FPS)


def _caption_line(seed: int, index: int) -> dict[str, object]:
    scene, rng = clip_scene(seed, index), random.Random(f"caption-{seed}-{index}")
    return {
        "path": _clip_path(Path(), index).name,
        "captions": [
            {"kind": "long", "text": long_caption(scene, rng)},
            {"kind": "short", "text": short_caption(scene, rng, "seen")},
        ],
    }


def _too_short(path: Path) -> None:
    write_mp4(path, _example()[: CLIP_FRAMES // 2], CLIP_FPS)


def _too_wide(path: Path) -> None:
    write_mp4(path, np.tile(_example(), (1, 1, 3, 1)), CLIP_FPS)


def _black(path: Path) -> None:
    frames = np.zeros_like(_example())
    for moment, frame in enumerate(frames):  # a faint light that moves, so that stillness is not what is found
        frame[28:36, 4 + moment // 2 : 12 + moment // 2] = 60
    write_mp4(path, frames, CLIP_FPS)


def _still(path: Path) -> None:
    scene = count_scene(random.Random(0), "green", "square", 2)
    write_mp4(path, np.repeat(render(scene, 2)[:1], CLIP_FRAMES, axis=0), CLIP_FPS)


def _cut_off(path: Path) -> None:
    whole = path.with_suffix(".whole.tmp.mp4")
    write_mp4(whole, _example(), CLIP_FPS)
    data = whole.read_bytes()
    whole.unlink()
    path.write_bytes(data[: len(data) // 2])


def _not_a_video(path: Path) -> None:
    path.write_text("This is a text file that somebody renamed.\n", encoding="utf-8")


def _example() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return render(motion_scene(random.Random(0), "red", "circle", ("right", "down")))


BAD_CLIPS: dict[str, Callable[[Path], None]] = {
    "bad-too-short.mp4": _too_short,
    "bad-too-wide.mp4": _too_wide,
    "bad-black.mp4": _black,
    "bad-still.mp4": _still,
    "bad-cut-off.mp4": _cut_off,
    "bad-not-a-video.mp4": _not_a_video,
}
"""Names of the files that must not pass, and what makes each."""
