"""The steps of a run on one worker, with or without Ray around it. Every rank makes the same calls."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.batches import Batch, Batches
from mimir_ray.training.engine import Engine, StepResult, learning_rate_at
from mimir_ray.training.reporting.metrics import MetricsRow
from mimir_ray.training.reporting.telemetry import loss_by_timestep, peak_memory_gib, peak_tflops
from mimir_ray.training.state.pieces import TrainingProgress

logger = logging.getLogger(__name__)

_NAMED = 20


class NonFiniteError(Exception):
    """Too many steps had an infinite or NaN gradient; the message names the clips. Raised on every rank at once."""


def run_steps(
    engine: Engine,
    batches: Batches,
    config: TrainingConfig,
    start: TrainingProgress,
    *,
    record: Callable[[MetricsRow], None],
    checkpoint: Callable[[MetricsRow], None],
) -> None:
    """Train from ``start`` to the end. A step whose gradient is not finite changes nothing and is counted.

    Args:
        record: called with the row of every interval of ``log_every`` steps, on every rank.
        checkpoint: called after ``record`` every ``checkpoint_every`` steps and at the end; it saves the engine.

    Raises:
        NonFiniteError: more than ``max_skipped_steps`` were left out; at the end of the interval in which it happened.
    """
    interval = _Interval()
    skipped = start.skipped
    asked = time.perf_counter()
    for step, batch in enumerate(batches.ahead(start.step, config.steps), start=start.step):
        waited = time.perf_counter() - asked
        count = step + 1
        saves = count % config.checkpoint_every == 0 or count == config.steps
        closes = saves or count % config.log_every == 0
        result = engine.step(batch.to(engine.device), step, telemetry=closes)
        interval.add(step, batch, result, waited, engine.flops(batch))
        skipped += not result.applied
        if closes:
            row = interval.close(engine, config, count, skipped)
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
    sample_flops: int = 0
    """The FLOPs of one sample of each step, added up; batches may have several sizes."""
    steps: list[tuple[int, tuple[str, ...], StepResult]] = field(default_factory=list)
    timesteps: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    def add(self, step: int, batch: Batch, result: StepResult, waited_s: float, sample_flops: int) -> None:
        self.sample_flops += sample_flops
        self.steps.append((step, batch.clip_ids, result))
        self.timesteps.append(batch.timesteps)
        self.weights.append(batch.weight)
        self.waited_s += waited_s

    def close(self, engine: Engine, config: TrainingConfig, count: int, skipped: int) -> MetricsRow:
        """The row of this interval: the mean loss over the samples of all workers in the steps that were applied."""
        if not all(result.applied for _, _, result in self.steps):
            self._account_for_skipped(skipped, config.max_skipped_steps)
        results = [result for _, _, result in self.steps]
        weights = torch.stack(self.weights).to(engine.device)
        losses = (torch.stack([result.per_sample for result in results]) * weights).mean(1)
        dist.all_reduce(losses)
        learnt = losses[torch.tensor([result.applied for result in results], device=losses.device)]
        seconds = time.perf_counter() - self.began
        per_step = seconds / len(self.steps)
        tflops = self.sample_flops * config.batch_size / dist.get_world_size() / seconds / 1e12
        peak = peak_tflops(engine.device, config.precision)
        counted = weights.flatten() > 0
        per_sample = torch.cat([result.per_sample for result in results])[counted]
        timesteps = torch.cat(self.timesteps).to(engine.device)[counted]
        return {
            "step": count,
            "loss": float(learnt.mean()) / dist.get_world_size() if len(learnt) else None,
            "skipped_steps": skipped,
            "workers": dist.get_world_size(),
            "gradient_norm": engine.gradient_norm(),
            "learning_rate": config.learning_rate * learning_rate_at(count - 1, config),
            "samples_per_s": config.batch_size / per_step,
            "remaining_s": per_step * (config.steps - count),
            "data_wait": self.waited_s / seconds,
            "tflops_per_worker": tflops,
            "mfu": tflops / peak if peak else None,
            "memory_gib": peak_memory_gib(engine.device),
            "loss_by_timestep": loss_by_timestep(per_sample, timesteps, engine.schedule_length),
            **results[-1].telemetry,
        }

    def _account_for_skipped(self, skipped: int, limit: int) -> None:
        """Say which clips made steps be left out. Raises NonFiniteError where those were too many."""
        mine = []
        for step, clip_ids, result in self.steps:
            if not result.applied:
                finite = torch.isfinite(result.per_sample).tolist()
                bad = [clip_id for clip_id, fine in zip(clip_ids, finite, strict=True) if not fine]
                mine.append((step, bad, list(clip_ids)))
        everyone: list[list[tuple[int, list[str], list[str]]]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(everyone, mine)
        reasons = []
        for parts in zip(*everyone, strict=True):
            step = parts[0][0] + 1
            losses = [clip_id for _, bad, _ in parts for clip_id in bad]
            batch = [clip_id for _, _, whole in parts for clip_id in whole]
            if losses:
                reasons.append(f"the loss of step {step} is not finite for clips {_listed(losses)}")
            else:
                reasons.append(f"the gradient of step {step} is not finite; its batch was clips {_listed(batch)}")
        if dist.get_rank() == 0:
            for reason in reasons:
                logger.warning("%s; nothing of that step was learnt", reason)
        if skipped > limit:
            raise NonFiniteError(
                f"{skipped} steps were left out, more than training.max_skipped_steps={limit}; the last ones: "
                f"{'. '.join(reasons[-3:])}. If the same few clips come again, their latents or tokens are broken: "
                "remove their shards and precompute them again. If it is the whole batch, lower "
                "training.learning_rate or raise training.warmup_steps"
            )


def _listed(clip_ids: list[str]) -> str:
    clip_ids = list(dict.fromkeys(clip_ids))
    rest = len(clip_ids) - _NAMED
    return ", ".join(clip_ids[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
