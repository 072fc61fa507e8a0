"""The stages that the deployments run. Injected, so that they run and are tested without a model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from mimir_ray.generation.config import RuntimeConfig
from mimir_ray.records import GenerationRequest

if TYPE_CHECKING:
    from torch import Tensor

    from mimir_ray.generation.stages import Condition, DenoiseState


class Encode(Protocol):
    """``generation.stages.EncodeStage``."""

    def encode(self, request: GenerationRequest) -> "Condition": ...


class Denoise(Protocol):
    """``generation.stages.DenoiseStage``."""

    def start(self, request: GenerationRequest, condition: "Condition") -> "DenoiseState": ...

    def step(self, state: "DenoiseState", condition: "Condition") -> "DenoiseState": ...


class Decode(Protocol):
    """``generation.stages.DecodeStage``."""

    def decode(self, latents: "Tensor") -> NDArray[np.uint8]: ...


class Stages(Protocol):
    """Loads each stage in the process that calls for it. Must be picklable."""

    def encode_stage(self) -> Encode: ...

    def denoise_stage(self) -> Denoise: ...

    def decode_stage(self) -> Decode: ...


@dataclass(frozen=True)
class CheckpointStages:
    """The stages of a checkpoint, each with only the components it needs."""

    checkpoint: str
    runtime: RuntimeConfig

    def encode_stage(self) -> Encode:
        from mimir_ray.generation.checkpoint import load_encode_stage

        return load_encode_stage(self.checkpoint, self.runtime)

    def denoise_stage(self) -> Denoise:
        from mimir_ray.generation.checkpoint import load_denoise_stage

        return load_denoise_stage(self.checkpoint, self.runtime)

    def decode_stage(self) -> Decode:
        from mimir_ray.generation.checkpoint import load_decode_stage

        return load_decode_stage(self.checkpoint, self.runtime)
