"""What validations leave, and what they need.

    out/validation/step-00000500/
        index.jsonl       one row a prompt: prompt, seed, path, score, detail, reason, seconds
        00.mp4  01.mp4    in the order of the prompts

The index is written last, so that where it is, everything is.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimir_ray.config import UserError
from mimir_ray.generation.config import GenerationConfig
from mimir_ray.jsonl import json_lines
from mimir_ray.storage import exists, join, list_files, parent, read_bytes, write_bytes
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.state.run import checkpoint_name

_FOLDER, _INDEX = "validation", "index.jsonl"


@dataclass(frozen=True)
class Score:
    """How well a video shows its prompt."""

    value: float
    """From 0 to 1."""
    detail: dict[str, Any] = field(default_factory=dict)
    """What it is made of, as JSON can say it."""


Scorer = Callable[[str, NDArray[np.uint8]], Score | None]
"""(prompt, frames F H W 3) to its score, or None for a prompt that it cannot judge. It is pickled to where the videos
are made."""


@dataclass(frozen=True)
class ValidationVideo:
    """What one prompt came to: a video, or why there is none."""

    prompt: str
    seed: int
    path: str | None = None
    """The video's path in the validation's folder; None where none could be made."""
    score: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    """Why there is no video or no score although there should be; empty where all went well."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Validation:
    """What the prompts came to with the weights of one checkpoint."""

    step: int
    folder: str
    videos: tuple[ValidationVideo, ...]

    @property
    def made(self) -> int:
        """How many videos there are."""
        return sum(video.path is not None for video in self.videos)

    @property
    def score(self) -> float | None:
        """The mean of the videos' scores; None where no video has one."""
        scores = [video.score for video in self.videos if video.score is not None]
        return sum(scores) / len(scores) if scores else None

    @property
    def reasons(self) -> list[str]:
        """Why prompts failed, each reason once."""
        return list(dict.fromkeys(video.reason for video in self.videos if video.reason))

    @property
    def seconds(self) -> float:
        """The seconds that the videos took."""
        return sum(video.seconds for video in self.videos)

    def write(self) -> None:
        """Write the index."""
        rows = (json.dumps(asdict(video), ensure_ascii=False) + "\n" for video in self.videos)
        write_bytes(join(self.folder, _INDEX), "".join(rows).encode())


def validation_folder(out: str, step: int) -> str:
    """Where the videos of a step lie."""
    return join(out, _FOLDER, checkpoint_name(step))


def read_validation(out: str, step: int) -> Validation | None:
    """The validation of a step under ``out``; None where there is none."""
    index = join(validation_folder(out, step), _INDEX)
    return _read(index) if exists(index) else None


def read_validations(out: str) -> list[Validation]:
    """Every validation under ``out``, the first step first."""
    root = join(out, _FOLDER)
    return [_read(index) for index in list_files(root, {_INDEX})] if exists(root) else []


def _read(index: str) -> Validation:
    folder = parent(index)[0]
    videos = tuple(ValidationVideo(**row) for _, row in json_lines(read_bytes(index), index))
    return Validation(int(parent(folder)[1].removeprefix("step-")), folder, videos)


def check_validation(config: TrainingConfig, generation: GenerationConfig | None, scorer: Scorer | None) -> None:
    """Raise UserError where a training asks for validation and lacks something that it takes."""
    validation = config.validation
    if config.keep_by == "score" and (scorer is None or not validation.every):
        lacking = "nothing here scores videos" if scorer is None else "training.validation.every=0 makes no videos"
        raise UserError(
            f"training.keep_by=score keeps what validation scores best, and {lacking}; set training.keep_by=step"
            + ("" if scorer is None else f", or training.validation.every={config.checkpoint_every}")
        )
    if not validation.every:
        return
    if generation is None:
        raise UserError(
            f"training.validation.every={validation.every} makes videos and nothing says of what size; pass "
            "generation=GenerationConfig(...) to train(), or set training.validation.every=0"
        )
    if generation.runtime.device == "cuda" and not validation.num_gpus:
        raise UserError(
            "generation.runtime.device=cuda and training.validation.num_gpus=0: validation would see no GPU; set "
            "training.validation.num_gpus=1, or generation.runtime.device=auto"
        )
