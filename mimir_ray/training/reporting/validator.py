"""Validation off the training path: Ray Train calls a ``Validator`` with every checkpoint that is reported for it.

    report(..., checkpoint=..., validation=ValidationTaskConfig(fn_kwargs={"step": step}))

Training does not wait: the videos are made in a task of their own, from the checkpoint's files. Ray Train keeps those
until the task has ended, runs one validation at a time, starts those again that an interrupted run left, and waits for
the last one at the end.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimir_ray.config import UserError
from mimir_ray.generation.config import GenerationConfig
from mimir_ray.model.config import ModelConfig
from mimir_ray.storage import join, write_bytes
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.reporting.validation import (
    Scorer,
    Validation,
    ValidationVideo,
    read_validation,
    validation_folder,
)

if TYPE_CHECKING:
    from ray.train import Checkpoint

    from mimir_ray.generation.generator import Generator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validator:
    """Makes, scores and writes the videos of a checkpoint. Whatever happens to that, the training goes on."""

    model: ModelConfig
    training: TrainingConfig
    generation: GenerationConfig
    """Size, steps and guidance of the videos, device, offloading and tiles; the number format is ``model.dtype``."""
    out: str
    scorer: Scorer | None
    feed: Any
    """A ``ray.util.queue.Queue`` into which every ``Validation`` goes."""

    def __call__(self, checkpoint: "Checkpoint", step: int) -> dict[str, float]:
        """Called by Ray Train, in a process beside it; returns what joins the checkpoint's metrics: its score.

        A step that has videos under ``out`` is not validated again.
        """
        validation = read_validation(self.out, step)
        if validation is None or not validation.made:
            validation = Validation(step, validation_folder(self.out, step), self._videos(checkpoint, step))
            validation.write()
            self.feed.put_nowait(validation)
        return {} if validation.score is None else {"score": validation.score}

    def _videos(self, checkpoint: "Checkpoint", step: int) -> tuple[ValidationVideo, ...]:
        """What a task makes of the prompts. Ray Train would let a process that dies, of hunger for one, end the
        training; here the failure is the validation's."""
        import ray

        remote: Any = ray
        limits = self.training.validation
        task = remote.remote(make_videos).options(num_cpus=limits.num_cpus, num_gpus=limits.num_gpus, max_retries=0)
        made = task.remote(self, checkpoint, step)
        try:
            if remote.wait([made], timeout=limits.timeout_s)[0]:
                return tuple(remote.get(made))
            remote.cancel(made, force=True)
            reason = (
                f"it was not done after training.validation.timeout_s={limits.timeout_s:g}; raise that, or take fewer "
                "prompts"
            )
        except remote.exceptions.TaskCancelledError:  # with the whole run, which makes it anew when it goes on
            raise
        except Exception as error:
            logger.warning("validation of step %d failed", step, exc_info=error)
            reason = explain(error)
        return tuple(
            ValidationVideo(prompt, limits.seed + index, reason=reason) for index, prompt in enumerate(limits.prompts)
        )


def make_videos(validator: Validator, checkpoint: "Checkpoint", step: int) -> list[ValidationVideo]:
    """Make, score and write the videos of a checkpoint in this process. A prompt that fails says why.

    Raises:
        UserError: a checkpoint that cannot be read, or a device that is not there.
    """
    from mimir_ray.generation.generator import Generator
    from mimir_ray.generation.runtime import place, prepare
    from mimir_ray.training.export import trained_pipeline
    from mimir_ray.training.state.pieces import read_weights

    training = validator.training
    device = prepare(validator.generation.runtime)
    with checkpoint.as_directory() as directory:
        weights = read_weights(Path(directory), "average" if training.ema_decay else "weight")
    pipeline = trained_pipeline(weights, validator.model, training)
    place(pipeline, validator.generation.runtime, device)
    generator = Generator(pipeline, f"step-{step}")
    folder = validation_folder(validator.out, step)
    return [_video(validator, generator, folder, index) for index in range(len(training.validation.prompts))]


def _video(validator: Validator, generator: "Generator", folder: str, index: int) -> ValidationVideo:
    from mimir_ray.generation.generator import generate
    from mimir_ray.video import encode_mp4

    began = time.monotonic()
    prompts = validator.training.validation
    prompt, seed = prompts.prompts[index], prompts.seed + index
    path, score, reason = None, None, ""
    try:
        frames = generate(generator, validator.generation.request(prompt, generator.model, seed))
        name = f"{index:02d}.mp4"
        write_bytes(join(folder, name), encode_mp4(frames, validator.generation.fps))
        path = name
        score = validator.scorer(prompt, frames) if validator.scorer is not None else None
    except Exception as error:
        logger.warning("prompt %d of %s failed", index + 1, folder, exc_info=error)
        reason = explain(error)
    value, detail = (score.value, score.detail) if score is not None else (None, {})
    return ValidationVideo(prompt, seed, path, value, detail, reason, round(time.monotonic() - began, 3))


def explain(error: BaseException) -> str:
    """One line about a failure; of Ray's wrappers it is what they carry."""
    error = getattr(error, "cause", None) or error
    first = str(error).strip().partition("\n")[0]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
