"""The T5-only base: a small CogVideoX video transformer trained on long captions, before there is any Mimir."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from transformers import AutoTokenizer, T5EncoderModel

from mimir_ray.model.diffusion import Schedule, draw_timesteps, loss
from mimir_ray.shapes.language import long_caption
from mimir_ray.shapes.pretrain.config import BaseConfig
from mimir_ray.shapes.pretrain.text_models import TEXT_LENGTH
from mimir_ray.shapes.pretrain.vae import LATENT_CHANNELS, as_decoded, pixels
from mimir_ray.shapes.world import MODEL_FRAMES, SIZE_PX, Scene, render, sample_scene

_ENCODE_BATCH = 16
Report = Callable[[int, float], None]


def build_transformer() -> CogVideoXTransformer3DModel:
    """A fresh 2B-style (sincos) video transformer of 1.26M parameters."""
    return CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=4,
        text_embed_dim=128,
        time_embed_dim=64,
        sample_width=SIZE_PX // 8,
        sample_height=SIZE_PX // 8,
        sample_frames=MODEL_FRAMES,
        max_text_seq_length=TEXT_LENGTH,
        use_rotary_positional_embeddings=False,
        spatial_interpolation_scale=1.0,
        temporal_interpolation_scale=1.0,
    )


def build_scheduler() -> CogVideoXDDIMScheduler:
    """CogVideoX-2B's scheduler: v-prediction, SNR shift 3, zero terminal SNR."""
    return CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        snr_shift_scale=3.0,
        set_alpha_to_one=True,
        clip_sample=False,
    )


def scene_at(seed: int, index: int) -> Scene:
    """A scene of the base's corpus."""
    return sample_scene(random.Random(f"base-{seed}-{index}"))


def encode_scenes(vae_dir: Path, out: Path, config: BaseConfig, seed: int, report: Report) -> None:
    """Write the posterior moments of the corpus, float16 scenes x T x 2C x h x w, as one tensor file."""
    vae = AutoencoderKLCogVideoX.from_pretrained(vae_dir).eval()
    moments = []
    for start in range(0, config.scenes, _ENCODE_BATCH):
        stop = min(start + _ENCODE_BATCH, config.scenes)
        clips = [as_decoded(render(scene_at(seed, index), MODEL_FRAMES)) for index in range(start, stop)]
        with torch.inference_mode():
            posterior = vae.encode(pixels(clips)).latent_dist
        moments.append(torch.cat([posterior.mean, posterior.std], dim=1).permute(0, 2, 1, 3, 4).half())
        report(stop, 0.0)
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.cat(moments), out)


def train_base(models: Path, moments_file: Path, config: BaseConfig, seed: int, report: Report) -> None:
    """Train the transformer and save the whole base in CogVideoX's layout.

    Matrices of the blocks are trained by Muon, all else by AdamW: at equal samples the loss is lower than with AdamW
    alone. What is saved is the exponential moving average.

    Args:
        models: holds `t5_tokenizer`, `t5` and `vae`; gets `base`.
    """
    torch.manual_seed(seed)
    moments = torch.load(moments_file, weights_only=True)
    text = _TextTable(models, random.Random(f"captions-{seed}"))
    scenes = [scene_at(seed, index) for index in range(len(moments))]
    transformer, scheduler = build_transformer(), build_scheduler()
    average = copy.deepcopy(transformer).eval().requires_grad_(False)
    schedule = Schedule.from_scheduler(scheduler)
    optimizers = _optimizers(transformer, config.learning_rate)
    steps = -(-config.samples // config.batch_size)
    for step in range(steps):
        factor = min(1.0, (step + 1) / 300) * max(0.02, 1 - (step / steps) ** 1.5)
        rows = torch.randint(0, len(moments), (config.batch_size,))
        mean, std = moments[rows].float().chunk(2, dim=2)
        condition = text.states([scenes[row] for row in rows.tolist()])
        condition = condition * (torch.rand(len(rows), 1, 1) >= config.text_dropout)
        clean = mean + std * torch.randn_like(mean)
        value = loss(
            transformer, schedule, clean, condition, draw_timesteps(len(rows), schedule), torch.randn_like(clean)
        ).mean
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor
            optimizer.step()
            optimizer.zero_grad()
        decay = min(config.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean_weight, weight in zip(average.parameters(), transformer.parameters(), strict=True):
                mean_weight.lerp_(weight, 1 - decay)
        report((step + 1) * config.batch_size, float(value.detach()))
    CogVideoXPipeline(
        tokenizer=text.tokenizer,
        text_encoder=text.encoder,
        vae=AutoencoderKLCogVideoX.from_pretrained(models / "vae"),
        transformer=average,
        scheduler=scheduler,
    ).save_pretrained(models / "base")


class _TextTable:
    """T5 states of long captions; the language is small enough to encode each caption once."""

    def __init__(self, models: Path, rng: random.Random) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(models / "t5_tokenizer")
        self.encoder = T5EncoderModel.from_pretrained(models / "t5").eval()
        self._rng = rng
        self._states: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def states(self, scenes: list[Scene]) -> torch.Tensor:
        """A freshly drawn long caption of each scene: B N D."""
        captions = [long_caption(scene, self._rng) for scene in scenes]
        new = sorted(set(captions) - self._states.keys())
        if new:
            ids = self.tokenizer(
                new, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
            ).input_ids
            self._states |= dict(zip(new, self.encoder(ids).last_hidden_state, strict=True))
        return torch.stack([self._states[caption] for caption in captions])


def _optimizers(transformer: Any, rate: float) -> list[torch.optim.Optimizer]:
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in transformer.named_parameters():
        (matrices if parameter.ndim == 2 and "transformer_blocks" in name else rest).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=rate, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.01),
    ]
