"""Fine-tuning of the token fuser and the video transformer with Ray Train and DeepSpeed ZeRO.

    summary = train("runs/first/data", "runs/first/train", model, config)

The text encoders and the VAE take no part: their tables (``latents``, ``t5_tokens``, ``llm_tokens``) are read instead.
"""

from mimir_ray.training.config import CaptionWeights, LoggingConfig, TrainingConfig, ValidationConfig
from mimir_ray.training.reporting.validation import Score, Scorer, read_validations
from mimir_ray.training.train import TrainingSummary, train

__all__ = [
    "CaptionWeights",
    "LoggingConfig",
    "Score",
    "Scorer",
    "TrainingConfig",
    "TrainingSummary",
    "ValidationConfig",
    "read_validations",
    "train",
]
