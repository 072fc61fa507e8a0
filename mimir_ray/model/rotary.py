"""Rotary position embedding of 5B-style transformers, by diffusers' own helpers, for training and sampling alike."""

from typing import Any

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor


def rotary_embedding(
    config: Any, latent_frames: int, latent_height: int, latent_width: int, device: torch.device | str
) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines for latents of T x h x w, or None for a transformer that adds sincos positions (2B style).

    ``config`` is the transformer's. The same values as ``CogVideoXPipeline._prepare_rotary_positional_embeddings``.
    """
    if not config.use_rotary_positional_embeddings:
        return None
    patch = config.patch_size
    grid = (latent_height // patch, latent_width // patch)
    base_width, base_height = config.sample_width // patch, config.sample_height // patch
    if config.patch_size_t is None:
        cos, sin = get_3d_rotary_pos_embed(
            embed_dim=config.attention_head_dim,
            crops_coords=get_resize_crop_region_for_grid(grid, base_width, base_height),
            grid_size=grid,
            temporal_size=latent_frames,
            device=torch.device(device),
        )
    else:
        cos, sin = get_3d_rotary_pos_embed(
            embed_dim=config.attention_head_dim,
            crops_coords=None,
            grid_size=grid,
            temporal_size=(latent_frames + config.patch_size_t - 1) // config.patch_size_t,
            grid_type="slice",
            max_size=(base_height, base_width),
            device=torch.device(device),
        )
    return cos, sin
