"""DeepSpeed ZeRO around the training module: the one place that knows DeepSpeed.

Nothing is compiled on the way: the optimiser is torch's AdamW (which also averages the weights), and the shared-memory
collectives that DeepSpeed would build on a CPU (it needs a compiler and most of a minute) are switched off for gloo.
"""

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mimir_ray.training.average import AVERAGE, AveragingAdamW, decay_at
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.batches import Batch, Share
from mimir_ray.training.module import TrainingModule
from mimir_ray.training.state.pieces import WEIGHT, Piece, TrainingProgress, key, read_progress, read_state, write_state
from mimir_ray.training.state.sharding import owned, owned_gradients, publish

_NO_LIMIT = 10**9


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Fraction of the peak rate at step ``step`` (counted from 0)."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    return config.final_learning_rate + (1 - config.final_learning_rate) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class StepResult:
    """What a step leaves on the device; nothing here was waited for."""

    per_sample: Tensor
    """Loss of each of this worker's samples, B float32."""
    applied: bool
    """False where a gradient was not finite, and the update was therefore left out."""
    telemetry: dict[str, float]
    """Norms and ratios of the token fuser's branches before the update, where they were asked for."""


class Engine:
    """A training module under ZeRO. The process group must exist; every rank makes the same calls.

    Raises:
        ValueError: from torch or DeepSpeed, for settings that they cannot run.
    """

    def __init__(self, module: TrainingModule, config: TrainingConfig, device: torch.device) -> None:
        deepspeed = _deepspeed(device)
        module.schedule = module.schedule.to(device)
        if config.gradient_checkpointing:
            module.transformer.enable_gradient_checkpointing()
        if config.compile:
            for block in module.transformer.transformer_blocks:  # one graph serves them all
                block.compile()
        module.train()
        self.device = device
        self.schedule_length = len(module.schedule)
        self._config = config
        self._module = module
        groups = module.parameter_groups(config)
        optimizer = AveragingAdamW(groups, betas=config.betas, weight_decay=config.weight_decay, fused=True)
        world = torch.distributed.get_world_size()
        self._parts = Share.of(config, world).parts
        self._engine, self._zero, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=_settings(config, world, device)
        )
        self._updates = 0

    def step(self, batch: Batch, step: int, *, telemetry: bool = False) -> StepResult:
        """Forward, backward and update on this worker's share of the batch of step ``step`` (counted from 0).

        With ``telemetry`` the result says how the token fuser does, gradients of its branches included; that waits for
        the device, and every rank must ask for it at the same step.
        """
        rate = learning_rate_at(step, self._config)
        for group in self._zero.param_groups:
            group["lr"] = group["peak"] * rate
            if self._config.ema_decay:
                group["average_decay"] = decay_at(step, self._config.ema_decay)
        losses: list[Tensor] = []
        report: dict[str, float] = {}
        for part in batch.split(self._parts):
            loss, per_sample = self._engine(part)
            self._engine.backward(loss)
            if telemetry and len(losses) == self._parts - 1:
                report = self._telemetry()
            self._engine.step()
            losses.append(per_sample)
        applied = bool(self._engine.was_step_applied())
        self._updates += applied
        return StepResult(losses[0] if len(losses) == 1 else torch.cat(losses), applied, report)

    def flops(self, batch: Batch) -> int:
        """FLOPs of a step for one sample like those of ``batch``."""
        return self._module.flops(batch)

    def gradient_norm(self) -> float:
        """Norm of the whole gradient of the last step, before clipping. Waits for the device."""
        return float(self._engine.get_global_grad_norm())

    def _telemetry(self) -> dict[str, float]:
        fuser = self._module.token_fuser
        weights = {part.name: part.of(part.flat) for part in owned(self._zero, fuser)}
        report: dict[str, float] = fuser.telemetry(weights, owned_gradients(self._zero, fuser), _over_workers)
        return report

    def save(self, directory: Path, step: int) -> None:
        """Write what this rank owns of the state after ``step`` steps. Every rank must call it."""
        write_state(directory, self._pieces(), TrainingProgress(step, self._updates))

    def load(self, directory: Path) -> TrainingProgress:
        """Continue from what ``save`` wrote, whatever the number of workers and the ZeRO stage were then.

        Every rank must call it, with the files of all ranks together. Raises UserError for another module's state.
        """
        progress = read_progress(directory)
        self._updates = progress.updates
        if progress.updates:
            for part in owned(self._zero, self._module):
                state = self._zero.optimizer.state[part.flat]
                if not state:
                    count = torch.tensor(float(progress.updates), device=part.flat.device)
                    state |= {name: torch.zeros_like(part.flat) for name in self._states} | {"step": count}
        kinds = (WEIGHT, *(self._states if progress.updates else ()))
        read_state(directory, self._pieces(), {key(kind, n): size for n, size in self._sizes() for kind in kinds})
        publish(self._zero)
        return progress

    @property
    def _states(self) -> tuple[str, ...]:
        """What the optimiser keeps of a parameter."""
        return ("exp_avg", "exp_avg_sq", *((AVERAGE,) if self._config.ema_decay else ()))

    def _sizes(self) -> list[tuple[str, int]]:
        """Name and number of elements of every trained parameter."""
        trained = [(name, weight) for name, weight in self._module.named_parameters() if weight.requires_grad]
        return [(name, int(getattr(weight, "ds_numel", weight.numel()))) for name, weight in trained]

    def _pieces(self) -> dict[str, Piece]:
        """What this rank owns, by its name in the state."""
        pieces = {}
        for part in owned(self._zero, self._module):
            tensors = {WEIGHT: part.flat}
            if self._updates:
                state = self._zero.optimizer.state[part.flat]
                tensors |= {name: state[name] for name in self._states}
            for kind, flat in tensors.items():
                pieces[key(kind, part.name)] = Piece.of(part.of(flat), part.start, part.whole)
        return pieces


def _over_workers(sums: Tensor) -> Tensor:
    torch.distributed.all_reduce(sums)
    return sums


def _deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed for this device and attach it to the process group."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo" if device.type == "cpu" else "nccl")
    return deepspeed


def _settings(config: TrainingConfig, world: int, device: torch.device) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    aside = {"device": "cpu", "pin_memory": device.type != "cpu"}
    offload = {"offload_optimizer": aside} if config.offload != "none" else {}
    if config.offload == "all":
        offload["offload_param"] = aside
    share = Share.of(config, world)
    settings: dict[str, Any] = {
        "train_batch_size": world * share.samples,
        "train_micro_batch_size_per_gpu": share.samples // share.parts,
        "gradient_accumulation_steps": share.parts,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": {
            "stage": config.zero_stage,
            # A contiguous copy keeps GPU memory from fragmenting; on a CPU it only costs a copy of every gradient.
            "contiguous_gradients": device.type != "cpu",
            "overlap_comm": device.type != "cpu",
            **offload,
        },
        "zero_force_ds_cpu_optimizer": False,  # the averaging optimiser works on the CPU too
        "zero_allow_untested_optimizer": True,
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "steps_per_print": _NO_LIMIT,
        "wall_clock_breakdown": False,
    }
    if config.precision == "bf16":
        settings["bf16"] = {"enabled": True, "check_grad_overflow": True}
    return settings
