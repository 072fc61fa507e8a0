"""The small video VAE: an `AutoencoderKLCogVideoX` whose latents have zero mean and unit variance in every channel.

It is trained on crops around objects first (convolutions do not mind), then on whole frames. Then the latents are
normalised inside the encoder's last convolution, so that `scaling_factor` is 1, and from there on the encoder is frozen
and the decoder alone learns to read latents through a little noise, as a diffusion model's results need.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSpatialNorm3D

from mimir_ray.shapes.pretrain.config import VaeConfig
from mimir_ray.shapes.world import MODEL_FRAMES, SIZE_PX, Frames, Kind, Scene, render, sample_scene

LATENT_CHANNELS = 16
_CROP_PX = 32
Report = Callable[[int, float], None]


def train_vae(out: Path, config: VaeConfig, seed: int, report: Report) -> None:
    """Train, normalise, and save encoder and decoder in `out`."""
    torch.manual_seed(seed)
    vae = build_vae()
    _train_whole(vae, config, random.Random(f"vae-{seed}"), report)
    normalise_latents(vae, random.Random(f"normalise-{seed}"))
    _train_decoder(vae, config, random.Random(f"decoder-{seed}"), report)
    vae.eval().save_pretrained(out)


def build_vae() -> AutoencoderKLCogVideoX:
    """A fresh VAE with CogVideoX's compression: 8 x 8 pixels and 4 frames to one of 16 channels."""
    channels = (8, 16, 32, 32)
    return AutoencoderKLCogVideoX(
        block_out_channels=channels,
        down_block_types=("CogVideoXDownBlock3D",) * len(channels),
        up_block_types=("CogVideoXUpBlock3D",) * len(channels),
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        temporal_compression_ratio=4,
        sample_height=SIZE_PX,
        sample_width=SIZE_PX,
        scaling_factor=1.0,
    )


def pixels(clips: list[Frames]) -> torch.Tensor:
    """uint8 clips F H W 3 as one float batch B 3 F H W in [-1, 1]."""
    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def as_decoded(frames: Frames) -> Frames:
    """What yuv420p leaves of a rendered clip: colour at half the resolution."""
    result = []
    for frame in frames:
        yuv = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV)
        height, width = yuv.shape[:2]
        half = cv2.resize(yuv[..., 1:], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        yuv[..., 1:] = cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR)
        result.append(cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB))
    return np.stack(result).astype(np.uint8)


def _train_whole(vae: AutoencoderKLCogVideoX, config: VaeConfig, rng: random.Random, report: Report) -> None:
    optimizer = torch.optim.AdamW(vae.parameters(), config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    steps = config.crop_steps + config.full_steps
    for step in range(steps):
        crops = step < config.crop_steps
        clips = [_sample(rng, crops) for _ in range(config.crop_batch if crops else config.full_batch)]
        x = pixels(clips)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=step < 0.9 * steps):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample
        squared, absolute = _errors(y, x)
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        rate = config.learning_rate * min(1.0, (step + 1) / 100) * (1 - step / steps) ** 0.8 + 1e-5
        _update(optimizer, squared + 0.2 * absolute + config.kl_weight * kl, rate)
        report(step + 1, float(squared.detach()))


def normalise_latents(vae: AutoencoderKLCogVideoX, rng: random.Random, clips: int = 240) -> None:
    """Move each channel's mean and scale from the latents into the weights around them.

    Exact but for the zero padding at the borders of the decoder's first convolution, which the decoder's own training
    mends.
    """
    scenes = [sample_scene(rng) for _ in range(clips)]
    with torch.no_grad():
        means = [
            vae.encode(pixels([render(scene, MODEL_FRAMES) for scene in scenes[i : i + 16]])).latent_dist.mean
            for i in range(0, clips, 16)
        ]
        latents = torch.cat(means)
        mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
        last = vae.encoder.conv_out.conv
        last.weight[:LATENT_CHANNELS] /= std.view(-1, 1, 1, 1, 1)
        last.bias[:LATENT_CHANNELS] = (last.bias[:LATENT_CHANNELS] - mean) / std
        last.bias[LATENT_CHANNELS:] -= 2 * std.log()
        norms = [module for module in vae.decoder.modules() if isinstance(module, CogVideoXSpatialNorm3D)]
        readers = [vae.decoder.conv_in.conv] + [conv.conv for norm in norms for conv in (norm.conv_y, norm.conv_b)]
        for reader in readers:
            reader.bias += (reader.weight.sum((2, 3, 4)) * mean).sum(1)
            reader.weight *= std.view(1, -1, 1, 1, 1)


def _train_decoder(vae: AutoencoderKLCogVideoX, config: VaeConfig, rng: random.Random, report: Report) -> None:
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), config.decoder_learning_rate, betas=(0.9, 0.99))
    average = [parameter.detach().clone() for parameter in vae.decoder.parameters()]
    for step in range(config.decoder_steps):
        kind: Kind | None = "motion" if rng.random() < 0.6 else None
        x = pixels([render(sample_scene(rng, kind), MODEL_FRAMES) for _ in range(config.full_batch)])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=step < 0.85 * config.decoder_steps):
            with torch.no_grad():
                z = vae.encode(x).latent_dist.mean.float()
                z = z + torch.randn_like(z) * torch.rand(len(z), 1, 1, 1, 1) * config.decoder_noise
            y = vae.decode(z).sample
        squared, absolute = _errors(y, x)
        rate = config.decoder_learning_rate * min(1.0, (step + 1) / 50) * (1 - step / config.decoder_steps) + 1e-5
        _update(optimizer, squared + 0.3 * absolute, rate)
        with torch.no_grad():
            for mean, parameter in zip(average, vae.decoder.parameters(), strict=True):
                mean.lerp_(parameter, 0.01)
        report(step + 1, float(squared.detach()))
    with torch.no_grad():
        for mean, parameter in zip(average, vae.decoder.parameters(), strict=True):
            parameter.copy_(mean)


def _errors(y: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    difference = y.float() - x
    return difference.square().mean(), difference.abs().mean()


def _update(optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def _sample(rng: random.Random, crop: bool) -> Frames:
    scene = sample_scene(rng)
    frames = render(scene, MODEL_FRAMES)
    if rng.random() > 0.3:
        frames = as_decoded(frames)
    return _crop(frames, scene, rng) if crop else frames


def _crop(frames: Frames, scene: Scene, rng: random.Random) -> Frames:
    """A 32 x 32 window near the way of one of the objects."""
    thing = rng.choice(scene.things)
    reach = 26 if scene.path else 10
    left, top = (
        int(np.clip(at - _CROP_PX / 2 + rng.uniform(-reach, reach), 0, SIZE_PX - _CROP_PX))
        for at in (thing.x_px, thing.y_px)
    )
    return frames[:, top : top + _CROP_PX, left : left + _CROP_PX]
