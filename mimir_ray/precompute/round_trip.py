"""How well a VAE gives clips back: of one that was trained on other pictures nothing can be learnt.

Looked at are the first clips that an actor reads: of each the first frames, in the middle of the picture, so that it
takes as little memory as it takes time.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimir_ray.config import UserError
from mimir_ray.model.latents import decode_frames, encode_moments, spatial_factor
from mimir_ray.precompute.config import PrecomputeConfig
from mimir_ray.precompute.encode import ReadFrames
from mimir_ray.precompute.frames import choose_size, fit_frames
from mimir_ray.records import Clip

CLIPS, FRAMES, PIXELS = 4, 9, 256
"""Clips that are looked at, and of each the frames and the largest side; 9 frames are what a VAE decodes of 1 + 8."""


def check_round_trip(
    clips: Sequence[Clip], read: ReadFrames, vae: Any, config: PrecomputeConfig, base: str
) -> float | None:
    """The PSNR of the first clips after encoding and decoding; None where none of them can be read.

    Raises UserError where it is below ``config.least_psnr_db``.
    """
    seen: list[NDArray[np.uint8]] = []
    for clip in clips[: 4 * CLIPS]:
        try:
            size, indices = choose_size(clip, config)
            seen.append(fit_frames(read(clip, indices), size.height, size.width))
        except Exception:  # encoding says so of each
            continue
        if len(seen) == CLIPS:
            break
    if not seen:
        return None
    found = round_trip_db(seen, vae)
    if config.least_psnr_db is not None and found < config.least_psnr_db:
        raise UserError(
            f"the VAE of {base} does not know videos like these: it gives the first {len(seen)} clips back at "
            f"{found:.1f} dB PSNR, and precompute.least_psnr_db is {config.least_psnr_db:g}, so that training on its "
            "latents would be on noise. Name a base that does, as --recipe mimir_2b and mimir_5b have it, for curation "
            "and training too; or set precompute.least_psnr_db=null to encode them all the same"
        )
    return found


def round_trip_db(clips: Sequence[NDArray[np.uint8]], vae: Any) -> float:
    """PSNR in dB of videos F H W 3 that went through the VAE and back, over the pixels of all of them."""
    errors = []
    for frames in clips:
        small = _middle(frames[:FRAMES] if len(frames) >= FRAMES else frames[:1], spatial_factor(vae.config))
        mean, _ = encode_moments(vae, small[None]).float().chunk(2, dim=2)
        back = decode_frames(vae, mean * vae.config.scaling_factor)[0]
        errors.append(np.mean((back.astype(np.float32) - small) ** 2))
    return 10 * math.log10(255**2 / max(float(np.mean(errors)), 1e-3))


def _middle(frames: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """The middle of frames F H W 3, a multiple of ``factor`` wide and high."""
    height, width = frames.shape[1:3]
    high, wide = (min(side, PIXELS) // factor * factor for side in (height, width))
    top, left = (height - high) // 2, (width - wide) // 2
    return np.ascontiguousarray(frames[:, top : top + high, left : left + wide])
