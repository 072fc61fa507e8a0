"""What the driver hands to the workers of Ray Train.

The driver and Ray's controller import this module as well, and it leaves torch, diffusers and DeepSpeed to the workers:
each of the two would spend seconds on importing what it never uses, one after the other.
"""

from dataclasses import dataclass
from typing import Any

from mimir_ray.model.config import ModelConfig
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.samples import TrainingData


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs to know."""

    data: TrainingData
    out: str
    model: ModelConfig
    config: TrainingConfig
    feed: Any
    """A ``ray.util.queue.Queue`` into which rank 0 puts every row of metrics."""
