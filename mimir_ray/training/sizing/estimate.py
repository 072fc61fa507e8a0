"""What a run will take by ZeRO stage and number of GPUs, before anything runs: memory by part, pace, hours.

Everything follows from configurations. Communication is taken to hide behind computation, and data to be there in time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from mimir_ray.config import UserError
from mimir_ray.model.flops import GPUS, forward_flops, training_flops
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.sizing.memory import GIB, Memory, Sizes, estimate_memory

UTILISATION = 0.4
"""The share of a GPU's peak over all that it computes; MFU's FLOPs leave out what checkpointing computes again."""
WORKERS = (1, 8, 16, 64)


@dataclass(frozen=True)
class TrainingEstimate:
    """One choice of ZeRO stage and number of GPUs."""

    config: TrainingConfig
    memory: Memory
    fits: bool
    samples_per_s: float | None
    """The pace of all GPUs together; None with offloading, whose pace is that of the link to main memory."""
    mfu: float | None
    hours: float | None
    """The hours that the configuration's steps take."""


def estimate_training(
    sizes: Sizes,
    config: TrainingConfig,
    latent_shape: tuple[int, int, int, int],
    *,
    gpu: str = "H100",
    workers: Sequence[int] | None = None,
) -> list[TrainingEstimate]:
    """A row for every ZeRO stage and number of GPUs that the batch can be shared among, at ``config``'s samples a GPU.

    Args:
        workers: numbers of GPUs; by default 1, 8, 16, 64 and the configuration's own.

    Raises:
        UserError: the GPU is not known, or the batch cannot be shared so.
    """
    if gpu not in GPUS:
        raise UserError(f"the figures of {gpu!r} are not known; name one of {', '.join(GPUS)}")
    rows = [
        _estimate(sizes, choice, latent_shape, gpu)
        for count in workers or sorted({*WORKERS, config.workers})
        for choice in _choices(config, count)
    ]
    if not rows:
        raise UserError(
            f"a batch of {config.batch_size} cannot be shared among {', '.join(map(str, workers or ()))} GPUs; "
            "choose a number that divides it, or another training.batch_size"
        )
    return rows


def _choices(config: TrainingConfig, workers: int) -> Iterator[TrainingConfig]:
    """All stages on so many workers, each with as many samples at once as in ``config`` or, if need be, fewer."""
    at_once = config.batch_size // (config.workers * config.accumulate)
    accumulate = max(1, config.batch_size // (workers * at_once))
    changes = {"workers": workers, "accumulate": accumulate, "min_workers": None}
    for stage in (3,) if config.offload == "all" else (1, 2, 3):
        try:
            yield TrainingConfig(**(dict(config) | changes | {"zero_stage": stage}))
        except ValidationError:
            return


def _estimate(
    sizes: Sizes, config: TrainingConfig, latent_shape: tuple[int, int, int, int], gpu: str
) -> TrainingEstimate:
    memory = estimate_memory(sizes, config, latent_shape, gpu=True)
    fits = memory.total <= GPUS[gpu].memory_gib * GIB
    if config.offload != "none":
        return TrainingEstimate(config, memory, fits, None, None, None)
    useful, computed = _flops(sizes, config, latent_shape)
    per_gpu = GPUS[gpu].peak(config.precision) * 1e12 * UTILISATION / computed
    pace = per_gpu * config.workers
    hours = config.steps * config.batch_size / pace / 3600
    return TrainingEstimate(config, memory, fits, pace, UTILISATION * useful / computed, hours)


def _flops(sizes: Sizes, config: TrainingConfig, latent_shape: tuple[int, int, int, int]) -> tuple[int, int]:
    """FLOPs of a sample: what training it takes, and what is computed with activations computed again."""
    forward = forward_flops(sizes.transformer, latent_shape, sizes.text_tokens)
    frozen = config.train != "full"
    useful = training_flops(sizes.transformer, latent_shape, sizes.text_tokens, frozen=frozen)
    return useful, useful + (forward if config.gradient_checkpointing else 0)
