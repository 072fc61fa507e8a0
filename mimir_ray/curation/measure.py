"""The scores that need no model: a clip's frames are decoded once and shared by motion, black area and brightness."""

from collections.abc import Iterable
from dataclasses import asdict

import cv2

from mimir_ray.curation.config import CurationConfig
from mimir_ray.curation.metrics import Grey, Sampling, Scores, grey, sample, score
from mimir_ray.curation.tables import Row
from mimir_ray.storage import local_copy
from mimir_ray.video import VideoInfo, read_frames, read_info

FRAMES_PER_READ = 64
"""Frames turn grey in pieces of this many, so that RGB of a whole clip is never held."""


def measure_clip(clip: Row, config: CurationConfig) -> Row:
    """Scores of a clip as columns of `clips`. Raises VideoError."""
    cv2.setNumThreads(1)  # there is a task for every core
    with local_copy(clip["path"]) as path:
        info = read_info(path, timeout_s=config.limits.probe_timeout_s)
        scores, decoder = measure(path, info, config)
    return asdict(scores) | {"decoder": decoder}


def measure(path: str, info: VideoInfo, config: CurationConfig) -> tuple[Scores, str]:
    """Scores of a clip and the decoder that read it. Every frame is decoded once and shared by the measures."""
    sampling = sample(info.times_s, config.measures)
    frames, decoders = _grey_frames(path, sampling, config)
    return score(frames, sampling, config.measures), "+".join(sorted(decoders))


def _grey_frames(path: str, sampling: Sampling, config: CurationConfig) -> tuple[dict[int, Grey], set[str]]:
    frames: dict[int, Grey] = {}
    decoders: set[str] = set()
    for indices in _pieces(sampling.indices):
        read = read_frames(
            path, indices, timeout_s=config.decode_timeout_s, short_side_px=config.measures.short_side_px
        )
        frames.update(zip(indices, grey(read.frames), strict=True))
        decoders.add(read.decoder)
    return frames, decoders


def _pieces(indices: list[int]) -> Iterable[list[int]]:
    count = -(-len(indices) // (2 * FRAMES_PER_READ))  # a clip of 65 frames is read at once
    size = -(-len(indices) // count)
    return [indices[start : start + size] for start in range(0, len(indices), size)]
