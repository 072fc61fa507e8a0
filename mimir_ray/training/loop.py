"""The steps of a run on one worker, with or without Ray around it. Every rank makes the same calls."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from mimir_ray.training.batches import Batch, Batches
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.engine import Engine, StepResult, learning_rate_at
from mimir_ray.training.metrics import Row
from mimir_ray.training.telemetry import loss_by_timestep, peak_memory_gib, peak_tflops

_NAMED = 20


class NonFiniteError(Exception):
    """A loss or a gradient was infinite or NaN; the message names the clips. Raised on every rank at once."""


def run_steps(
    engine: Engine,
    batches: Batches,
    config: TrainingConfig,
    done: int,
    *,
    record: Callable[[Row], None],
    checkpoint: Callable[[Row], None],
) -> None:
    """Train from step ``done`` to the end.

    Args:
        record: called with the row of every interval of ``log_every`` steps, on every rank.
        checkpoint: called after ``record`` every ``checkpoint_every`` steps and at the end; it saves the engine.

    Raises:
        NonFiniteError: at the end of the interval in which it happened; the weights kept out of it.
    """
    interval = _Interval()
    asked = time.perf_counter()
    for step, batch in enumerate(batches.ahead(done, config.steps), start=done):
        waited = time.perf_counter() - asked
        interval.add(step, batch, engine.step(batch.to(engine.device), step), waited)
        count = step + 1
        saves = count % config.checkpoint_every == 0 or count == config.steps
        if saves or count % config.log_every == 0:
            row = interval.close(engine, config, count, engine.flops(batch))
            record(row)
            if saves:
                checkpoint(row)
            interval = _Interval()
        asked = time.perf_counter()


@dataclass
class _Interval:
    """Steps since the last row. Losses stay on the device until ``close``, which is the only wait for it."""

    began: float = field(default_factory=time.perf_counter)
    waited_s: float = 0.0
    steps: list[tuple[int, tuple[str, ...], StepResult]] = field(default_factory=list)
    timesteps: list[Tensor] = field(default_factory=list)

    def add(self, step: int, batch: Batch, result: StepResult, waited_s: float) -> None:
        self.steps.append((step, batch.clip_ids, result))
        self.timesteps.append(batch.timesteps)
        self.waited_s += waited_s

    def close(self, engine: Engine, config: TrainingConfig, count: int, sample_flops: int) -> Row:
        """The row of this interval: the mean loss over all its samples on all workers."""
        losses = torch.stack([result.per_sample for _, _, result in self.steps]).mean(1)
        dist.all_reduce(losses)
        mean = float(losses.mean()) / dist.get_world_size()
        applied = all(result.applied for _, _, result in self.steps)
        if not applied or not torch.isfinite(losses).all():
            self._refuse()
        seconds = time.perf_counter() - self.began
        per_step = seconds / len(self.steps)
        tflops = sample_flops * config.batch_size / config.workers / per_step / 1e12
        peak = peak_tflops(engine.device, config.precision)
        per_sample = torch.cat([result.per_sample for _, _, result in self.steps])
        return {
            "step": count,
            "loss": mean,
            "gradient_norm": engine.gradient_norm(),
            "learning_rate": config.learning_rate * learning_rate_at(count - 1, config),
            "samples_per_s": config.batch_size / per_step,
            "remaining_s": per_step * (config.steps - count),
            "data_wait": self.waited_s / seconds,
            "tflops_per_worker": tflops,
            "mfu": tflops / peak if peak else None,
            "memory_gib": peak_memory_gib(engine.device),
            "loss_by_timestep": loss_by_timestep(per_sample, torch.cat(self.timesteps), engine.schedule_length),
            **engine.telemetry(),
        }

    def _refuse(self) -> None:
        mine = []
        for step, clip_ids, result in self.steps:
            finite = torch.isfinite(result.per_sample).tolist()
            bad = [clip_id for clip_id, fine in zip(clip_ids, finite, strict=True) if not fine]
            mine.append((step, bad, [] if result.applied else list(clip_ids)))
        everyone: list[list[tuple[int, list[str], list[str]]]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(everyone, mine)
        for parts in zip(*everyone, strict=True):
            step = parts[0][0] + 1
            losses = [clip_id for _, bad, _ in parts for clip_id in bad]
            suspects = [clip_id for _, _, left_out in parts for clip_id in left_out]
            if losses:
                raise NonFiniteError(_explain(f"the loss of step {step} is not finite for", losses))
            if suspects:
                raise NonFiniteError(_explain(f"the gradient of step {step} is not finite; its batch was", suspects))


def _explain(what: str, clip_ids: list[str]) -> str:
    clip_ids = list(dict.fromkeys(clip_ids))
    rest = len(clip_ids) - _NAMED
    names = ", ".join(clip_ids[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
    return (
        f"{what} clips {names}. Nothing of that step was learnt. If the same few clips come again, their latents or "
        "tokens are broken: remove their shards and precompute them again. If it is the whole batch, lower "
        "training.learning_rate or raise training.warmup_steps"
    )
