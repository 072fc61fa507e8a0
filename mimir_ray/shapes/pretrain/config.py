"""What it takes to make the small models of the shapes world; the defaults are the shipped models' recipe."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from mimir_ray.config import Config

PretrainStage = Literal["tokenizers", "llm", "t5", "vae", "latents", "base"]
STAGES: tuple[PretrainStage, ...] = get_args(PretrainStage)
"""The stages in the order in which they need each other."""


class TextConfig(Config):
    """Training of a small text model: the T5 encoder (with a throw-away decoder) or the LLM."""

    steps: int = Field(3000, gt=0)
    batch_size: int = Field(64, gt=0)
    learning_rate: float = Field(2e-3, gt=0)


class VaeConfig(Config):
    """Training of the VAE: the whole of it on crops, then on full frames, then the decoder alone on noisy latents."""

    crop_steps: int = Field(1700, ge=0)
    crop_batch: int = Field(8, gt=0)
    full_steps: int = Field(200, ge=0)
    full_batch: int = Field(4, gt=0)
    learning_rate: float = Field(3e-3, gt=0)
    kl_weight: float = Field(1e-5, ge=0)
    decoder_steps: int = Field(1250, ge=0)
    decoder_learning_rate: float = Field(1.5e-3, gt=0)
    decoder_noise: float = Field(0.15, ge=0)
    """Largest standard deviation of the noise on normalised latents that the decoder learns to read through."""


class BaseConfig(Config):
    """Training of the T5-only base DiT on long captions."""

    scenes: int = Field(14_336, gt=0)
    """Distinct clips, encoded once."""
    samples: int = Field(400_000, gt=0)
    batch_size: int = Field(32, gt=0)
    learning_rate: float = Field(1.5e-3, gt=0)
    text_dropout: float = Field(0.1, ge=0, lt=1)
    ema_decay: float = Field(0.9995, ge=0, lt=1)


class PretrainConfig(Config):
    """The whole recipe."""

    seed: int = 0
    threads: int = Field(2, gt=0)
    """Torch threads; every stage runs in one process."""
    t5: TextConfig = TextConfig(steps=2500)
    llm: TextConfig = TextConfig()
    vae: VaeConfig = VaeConfig()
    base: BaseConfig = BaseConfig()
