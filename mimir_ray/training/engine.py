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

from mimir_ray.training.average import AveragingAdamW, decay_at, exchange
from mimir_ray.training.batches import Batch
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.module import TrainingModule

_TAG = "state"
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
        module.train()
        self.device = device
        self.schedule_length = len(module.schedule)
        self._config = config
        self._module = module
        groups = module.parameter_groups(config)
        optimizer = AveragingAdamW(groups, betas=config.betas, weight_decay=config.weight_decay, fused=True)
        world = torch.distributed.get_world_size()
        self._engine, self._optimizer, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=_settings(config, world, device)
        )

    def step(self, batch: Batch, step: int) -> StepResult:
        """Forward, backward and update on this worker's share of the batch of step ``step`` (counted from 0)."""
        rate = learning_rate_at(step, self._config)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * rate
            if self._config.ema_decay:
                group["average_decay"] = decay_at(step, self._config.ema_decay)
        losses = []
        for part in batch.split(self._config.accumulate):
            loss, per_sample = self._engine(part)
            self._engine.backward(loss)
            self._engine.step()
            losses.append(per_sample)
        return StepResult(losses[0] if len(losses) == 1 else torch.cat(losses), bool(self._engine.was_step_applied()))

    def flops(self, batch: Batch) -> int:
        """FLOPs of a step for one sample like those of ``batch``."""
        return self._module.flops(batch)

    def gradient_norm(self) -> float:
        """Norm of the whole gradient of the last step, before clipping. Waits for the device."""
        return float(self._engine.get_global_grad_norm())

    def telemetry(self) -> dict[str, float]:
        """Norms and ratios of the token fuser's branches. Waits for the device; every rank must call it."""
        if self._config.zero_stage == 3:
            from deepspeed.utils import safe_get_full_fp32_param

            report = self._module.token_fuser.telemetry(safe_get_full_fp32_param, lambda parameter: None)
        else:
            report = self._module.token_fuser.telemetry(gradient=lambda parameter: None)
        return dict(report)

    def save(self, directory: Path, step: int) -> None:
        """Write this rank's part of the state after ``step`` steps. Every rank must call it."""
        self._engine.save_checkpoint(str(directory), tag=_TAG, client_state={"step": step})

    def load(self, directory: Path) -> int:
        """Continue from what ``save`` wrote, parts of all ranks together; returns the number of steps done."""
        path, state = self._engine.load_checkpoint(str(directory), tag=_TAG)
        if path is None:
            raise FileNotFoundError(f"{directory} holds no training state; remove it to resume from the one before")
        return int(state["step"])

    def weights(self) -> dict[str, Tensor] | None:
        """Every weight of the module by name, on rank 0; None elsewhere. Every rank must call it."""
        if self._config.zero_stage == 3:
            gathered: dict[str, Tensor] = self._engine._zero3_consolidated_16bit_state_dict()
        else:
            gathered = self._module.state_dict()
        return gathered if torch.distributed.get_rank() == 0 else None

    def average(self) -> dict[str, Tensor] | None:
        """Like ``weights``, with the moving average (float32) of each trained weight in its place."""
        from deepspeed.utils import safe_get_full_fp32_param

        weights = self.weights()
        exchange(self._optimizer.optimizer)
        try:
            for name, parameter in self._module.named_parameters():
                average = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
                if weights is not None and average is not None:
                    weights[name] = average.cpu()
        finally:
            exchange(self._optimizer.optimizer)
        return weights


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
    settings: dict[str, Any] = {
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": config.batch_size // (world * config.accumulate),
        "gradient_accumulation_steps": config.accumulate,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": {
            "stage": config.zero_stage,
            # A contiguous copy keeps GPU memory from fragmenting; on a CPU it only costs a copy of every gradient.
            "contiguous_gradients": device.type != "cpu",
            "overlap_comm": device.type != "cpu",
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "zero_allow_untested_optimizer": True,
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "steps_per_print": _NO_LIMIT,
        "wall_clock_breakdown": False,
    }
    if config.precision == "bf16":
        settings["bf16"] = {"enabled": True, "check_grad_overflow": True}
    return settings
