"""Frames to latents and back through ``AutoencoderKLCogVideoX``, and which sizes that allows.

Shapes: ``B F H W 3`` uint8 frames, ``B T C h w`` latents, ``B T 2C h w`` moments (mean, then log-variance, along the
channels).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mimir_ray.config import UserError
from mimir_ray.model.offload import execution_device


def check_size(vae_config: Any, transformer_config: Any, num_frames: int, height: int, width: int) -> None:
    """Refuse a size that the VAE or the transformer cannot make.

    CogVideoX 1.5 has positions for its sample size and what lies within; others stretch theirs to any size.

    Raises:
        UserError: with the value, the rule and the nearest sizes that are allowed.
    """
    ratio = int(vae_config.temporal_compression_ratio)
    period = 2 * ratio
    if num_frames < 1 or (num_frames - 1) % period:
        below = max((num_frames - 1) // period, 0) * period + 1
        choices = f"{below} or {below + period}"
        if num_frames > 0 and (num_frames - 1) % ratio == 0:
            reason = (
                f"makes {(num_frames - 1) // ratio + 1} latent frames, and the VAE decodes an odd number of them only"
            )
        else:
            reason = f"is not of the form {ratio}k+1 that the VAE's temporal compression needs"
        raise UserError(f"num_frames={num_frames} {reason}: use {choices}")
    factor = spatial_factor(vae_config)
    multiple = factor * int(transformer_config.patch_size)
    for name, pixels in (("height", height), ("width", width)):
        if pixels < multiple or pixels % multiple:
            below = max(pixels // multiple, 0) * multiple
            choices = f"{below} or {below + multiple}" if below else f"{multiple}"
            raise UserError(f"{name}={pixels} must be a positive multiple of {multiple} (VAE x patch): use {choices}")
        if getattr(transformer_config, "patch_size_t", None) is not None:
            largest = getattr(transformer_config, f"sample_{name}") * factor // multiple * multiple
            if pixels > largest:
                raise UserError(
                    f"{name}={pixels} is more than this transformer has positions for: use {largest} or less"
                )


def latent_shape(
    vae_config: Any, transformer_config: Any, num_frames: int, height: int, width: int
) -> tuple[int, int, int, int]:
    """T C h w of a video as the transformer sees it: T is padded to whole temporal patches."""
    factor = spatial_factor(vae_config)
    frames = (num_frames - 1) // int(vae_config.temporal_compression_ratio) + 1
    frames += padding(frames, temporal_patch(transformer_config))
    return frames, int(transformer_config.in_channels), height // factor, width // factor


def temporal_patch(transformer_config: Any) -> int:
    """Latent frames that the transformer reads as one: 2 for CogVideoX 1.5, 1 for others."""
    return getattr(transformer_config, "patch_size_t", None) or 1  # those published before 1.5 lack it


def padding(frames: int, patch: int) -> int:
    """Latent frames that come before the video's own so that they are whole patches.

    As the authors of CogVideoX 1.5 do it: copies of the first frame in training, noise of their own in sampling, and
    dropped before they are decoded.
    """
    return -frames % patch


def spatial_factor(vae_config: Any) -> int:
    """Pixels per latent along each side: 8 for CogVideoX."""
    return int(2 ** (len(vae_config.block_out_channels) - 1))


def tile(vae: Any) -> None:
    """Let the VAE encode and decode in tiles of half its sample size.

    They overlap by whole latents, as the published one's do; with diffusers' own fractions the tiles of another sample
    size would not add up to the frame.
    """
    factor = spatial_factor(vae.config)
    height, width = (max(2, size // 2 // factor) for size in (vae.config.sample_height, vae.config.sample_width))
    vae.enable_tiling(
        tile_sample_min_height=height * factor,
        tile_sample_min_width=width * factor,
        tile_overlap_factor_height=overlap(height, 1 / 6, factor),
        tile_overlap_factor_width=overlap(width, 1 / 5, factor),
    )


def overlap(latents: int, share: float, factor: int) -> float:
    """The fraction of a tile, from ``share`` on, that is whole latents in pixels too, as floating point has it."""
    fractions = (shared / latents for shared in range(max(1, round(latents * share)), latents))
    return next(
        fraction
        for fraction in fractions
        if int(latents * factor * (1 - fraction)) == factor * (latents - int(latents * fraction))
    )


@torch.no_grad()
def encode_moments(vae: Any, frames: np.ndarray | Tensor) -> Tensor:
    """Posterior moments of uint8 frames, B T 2C h w in the VAE's dtype, which ``draw_latents`` samples."""
    pixels = torch.as_tensor(frames).to(execution_device(vae))
    video = (pixels.float() / 127.5 - 1).to(vae.dtype).permute(0, 4, 1, 2, 3)
    moments: Tensor = vae.encode(video).latent_dist.parameters
    return moments.permute(0, 2, 1, 3, 4).contiguous()


def draw_latents(moments: Tensor, scaling_factor: float, generator: torch.Generator | None = None) -> Tensor:
    """Scaled latents B T C h w in float32, drawn from the posterior; ``generator`` must live on the moments' device."""
    mean, log_variance = moments.float().chunk(2, dim=2)
    deviation = log_variance.clamp(-30, 20).mul_(0.5).exp_()
    drawn = torch.randn(mean.shape, generator=generator, device=mean.device)
    return drawn.mul_(deviation).add_(mean).mul_(scaling_factor)  # in place: at 480p each copy is 4.5 MB


@torch.no_grad()
def decode_video(vae: Any, latents: Tensor) -> Tensor:
    """B 3 F H W in float32, -1 to 1 where the VAE keeps to it, of scaled latents.

    A video has an odd number of latent frames (``check_size``); where T is even, the first one is the padding that a
    temporal patch of 2 needed, and is dropped.
    """
    latents = latents[:, 1 - latents.shape[1] % 2 :].permute(0, 2, 1, 3, 4)
    video: Tensor = vae.decode(1 / vae.config.scaling_factor * latents.to(execution_device(vae), vae.dtype)).sample
    return video.float()


def decode_frames(vae: Any, latents: Tensor) -> np.ndarray:
    """uint8 frames B F H W 3 of scaled latents."""
    pixels = ((decode_video(vae, latents) / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    frames: np.ndarray = pixels.permute(0, 2, 3, 4, 1).cpu().numpy()
    return frames
