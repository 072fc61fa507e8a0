"""One validation: weights become videos of the fixed prompts, each with its score, and an index of them.

    step-00000500/
        index.jsonl       one row a prompt: prompt, seed, path, score, detail, reason, seconds
        00.mp4  01.mp4    in the order of the prompts

The index is written last, so that where it is, everything is.
"""

import json
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mimir_ray.config import UserError
from mimir_ray.generation.checkpoint import prepare
from mimir_ray.generation.config import GenerationConfig
from mimir_ray.generation.generator import Generator, generate
from mimir_ray.model.config import ModelConfig
from mimir_ray.storage import join, write_bytes
from mimir_ray.training.config import TrainingConfig, ValidationConfig
from mimir_ray.training.export import put_weights, starting_pipeline, trained_pipeline
from mimir_ray.video import encode_mp4

logger = logging.getLogger(__name__)

INDEX = "index.jsonl"
"""File of a validation's folder that lists its videos."""


@dataclass(frozen=True)
class Score:
    """How well a video shows its prompt."""

    value: float
    """From 0 to 1."""
    detail: dict[str, Any] = field(default_factory=dict)
    """What it is made of, as JSON can say it."""


Scorer = Callable[[str, NDArray[np.uint8]], Score | None]
"""(prompt, frames F H W 3) to its score, or None for a prompt that it cannot judge. It is pickled to the validator."""


@dataclass(frozen=True)
class Sample:
    """What one prompt came to."""

    prompt: str
    seed: int
    path: str | None
    """Of the video; None where none could be made."""
    score: float | None
    detail: dict[str, Any]
    reason: str
    """Why there is no video or no score although there should be; empty where all went well."""
    seconds: float


PackedWeights = dict[str, tuple[str, tuple[int, ...], NDArray[np.uint8]]]
"""Name to dtype, shape and bytes: numpy arrays cross the object store without being pickled, torch's tensors do not."""


def pack(weights: dict[str, Tensor], dtype: str) -> PackedWeights:
    """Weights in the model's number format, on the CPU; tensors that are there already are not copied."""
    packed = {}
    for name, tensor in weights.items():
        wanted = getattr(torch, dtype) if tensor.is_floating_point() else tensor.dtype
        there = tensor.detach().to("cpu", wanted).contiguous()
        kind = str(there.dtype).removeprefix("torch.")
        packed[name] = (kind, tuple(there.shape), there.reshape(-1).view(torch.uint8).numpy())
    return packed


def unpack(packed: PackedWeights) -> dict[str, Tensor]:
    """What ``pack`` was given, as tensors that share the arrays' memory: only for reading."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {
            name: torch.from_numpy(data).view(getattr(torch, kind)).reshape(shape)
            for name, (kind, shape, data) in packed.items()
        }


class Validator:
    """Loads the starting pipeline at the first validation and keeps it (one that gets adapters, anew for each)."""

    def __init__(
        self,
        model: ModelConfig,
        training: TrainingConfig,
        config: ValidationConfig,
        generation: GenerationConfig,
        out: str,
        scorer: Scorer | None,
    ) -> None:
        self._model = model
        self._training = training
        self._config = config
        self._generation = generation
        self._out = out
        self._scorer = scorer
        self._pipeline: Any = None

    def validate(self, step: int, weights: PackedWeights) -> list[Sample]:
        """Make, score and write the videos of ``step``. A prompt that fails says why in its ``reason``.

        Raises:
            UserError: a model that cannot be loaded on this device, or weights of another one.
        """
        generator = Generator(self._with(unpack(weights)), f"step-{step:08d}")
        folder = step_folder(self._out, step)
        samples = [self._sample(generator, folder, index) for index in range(len(self._config.prompts))]
        rows = [asdict(sample) | {"path": sample.path and f"{index:02d}.mp4"} for index, sample in enumerate(samples)]
        write_bytes(join(folder, INDEX), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        return samples

    def _with(self, weights: dict[str, Tensor]) -> Any:
        device = prepare(self._generation.runtime)
        if self._training.train == "lora":  # merged adapters do not come out again bit for bit
            self._pipeline = None
            self._pipeline = trained_pipeline(weights, self._model, self._training).to(device)
            return self._pipeline
        if self._pipeline is None:
            self._pipeline = starting_pipeline(self._model).to(device)
        put_weights(self._pipeline, weights, self._model)
        return self._pipeline

    def _sample(self, generator: Generator, folder: str, index: int) -> Sample:
        began = time.monotonic()
        prompt, seed = self._config.prompts[index], self._config.seed + index
        path, score, reason = None, None, ""
        try:
            frames = generate(generator, self._generation.request(prompt, generator.model, seed))
            target = join(folder, f"{index:02d}.mp4")
            write_bytes(target, encode_mp4(frames, self._generation.fps))
            path = target
            score = self._scorer(prompt, frames) if self._scorer is not None else None
        except Exception as error:
            logger.warning("prompt %d of step %s failed", index + 1, generator.model, exc_info=error)
            reason = explain(error)
        value, detail = (score.value, score.detail) if score is not None else (None, {})
        return Sample(prompt, seed, path, value, detail, reason, time.monotonic() - began)


def step_folder(out: str, step: int) -> str:
    """Where the videos of a step lie."""
    return join(out, "validation", f"step-{step:08d}")


def explain(error: BaseException) -> str:
    """One line about a failure; of Ray's wrappers it is what they carry."""
    error = getattr(error, "cause", None) or error
    first = str(error).strip().partition("\n")[0]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
