"""The three stages of a generation, each with only the components it needs, so that each can have its own process.

Everything runs one request at a time (batch 1): that, the fixed thread count and the one sampler are why the same
request gives the same frames wherever it is computed. Shapes: ``1 N D`` conditions, ``1 T C h w`` latents, ``F H W 3``
frames.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from mimir_ray.model import latents as latent_video
from mimir_ray.model.offload import execution_device
from mimir_ray.model.sampling import DenoiseState, Sampler
from mimir_ray.records import GenerationRequest

if TYPE_CHECKING:
    from mimir_ray.model.pipeline import MimirPipeline

__all__ = ["Condition", "DecodeStage", "DenoiseStage", "DenoiseState", "EncodeStage", "Stopwatch", "Timings"]


@dataclass(frozen=True)
class Condition:
    """The text of a request as the video transformer reads it."""

    text: Tensor
    """1 N D: fused tokens."""
    null: Tensor
    """1 N D: the null condition of guidance."""

    def to_bytes(self) -> bytes:
        """A safetensors document, a few MB at full size."""
        document: bytes = save_tensors({"text": self.text.cpu().contiguous(), "null": self.null.cpu().contiguous()})
        return document

    @classmethod
    def from_bytes(cls, data: bytes) -> "Condition":
        """What ``to_bytes`` wrote, on the CPU."""
        tensors = load_tensors(data)
        return cls(tensors["text"], tensors["null"])


class EncodeStage:
    """Prompt to condition: T5, the LLM and the token fuser.

    Args:
        hooks: of parts that are offloaded, which leave the device after each prompt, as other stages may share it.
    """

    def __init__(self, pipeline: "MimirPipeline", hooks: Sequence[Any] = ()) -> None:
        self._pipeline = pipeline
        self._hooks = hooks

    def encode(self, request: GenerationRequest) -> Condition:
        """Raises UserError for a prompt that is longer than the text encoder reads, or a size the model cannot make."""
        self._pipeline.check_size(request.num_frames, request.height, request.width)
        self._pipeline.check_prompt(request.prompt)
        text, null = self._pipeline.condition(self._pipeline.encode_prompt(request.prompt, request.seed))
        for hook in self._hooks:
            hook.offload()
        return Condition(text, null)


class DenoiseStage:
    """Condition to latents: the video transformer and its scheduler."""

    def __init__(self, transformer: Any, scheduler: Any, vae_config: Any) -> None:
        self._sampler = Sampler(transformer, scheduler)
        self._vae_config = vae_config

    def start(self, request: GenerationRequest, condition: Condition) -> DenoiseState:
        """The noise that the request's seed means, before the first step."""
        config = self._sampler.transformer.config
        latent_video.check_size(self._vae_config, config, request.num_frames, request.height, request.width)
        size = (request.num_frames, request.height, request.width)
        return self._sampler.start(
            latent_video.latent_shape(self._vae_config, config, *size),
            [request.seed],
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            dtype=condition.text.dtype,
            device=execution_device(self._sampler.transformer),
        )

    def step(self, state: DenoiseState, condition: Condition) -> DenoiseState:
        """One denoise step; on a GPU it returns when the work is done, so that progress and cancellation are true."""
        device = execution_device(self._sampler.transformer)
        state = self._sampler.step(state, condition.text.to(device), condition.null.to(device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return state


class DecodeStage:
    """Latents to frames: the VAE."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae

    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """F H W 3 of 1 T C h w, contiguous."""
        frames = latent_video.decode_frames(self._vae, latents)[0]
        return np.ascontiguousarray(frames, dtype=np.uint8)


@dataclass(frozen=True)
class Timings:
    """Seconds of each stage."""

    encode_s: float
    denoise_s: float
    decode_s: float


class Stopwatch:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Seconds since construction or the previous lap."""
        now = time.perf_counter()
        elapsed, self._since = now - self._since, now
        return elapsed
