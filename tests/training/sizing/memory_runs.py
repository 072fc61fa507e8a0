"""What DeepSpeed holds during a step, in two processes on the CPU: every tensor that is alive while weights change."""

import gc
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers import CogVideoXTransformer3DModel

from mimir_ray.model.config import FuserConfig
from mimir_ray.model.diffusion import Schedule
from mimir_ray.model.token_fuser import TokenFuser
from mimir_ray.model.tokens import TextTokens
from mimir_ray.training.average import AveragingAdamW
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.batches import Batch
from mimir_ray.training.engine import Engine
from mimir_ray.training.module import TrainingModule
from tests.tiny import tiny_scheduler

WORLD = 2
TEXT_LENGTH, TEXT_DIM, LLM_DIM = 12, 64, 48
TRANSFORMER = {
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "num_layers": 3,
    "time_embed_dim": 128,
    "text_embed_dim": TEXT_DIM,
    "sample_height": 8,
    "sample_width": 8,
    "sample_frames": 9,
    "max_text_seq_length": TEXT_LENGTH + 4,
}
CASES: dict[str, dict[str, Any]] = {
    "fp32 ZeRO-2": {"precision": "fp32", "zero_stage": 2},
    "fp32 ZeRO-3": {"precision": "fp32", "zero_stage": 3},
    "bf16 ZeRO-1": {"precision": "bf16", "zero_stage": 1},
    "bf16 ZeRO-2": {"precision": "bf16", "zero_stage": 2},
    "bf16 ZeRO-3": {"precision": "bf16", "zero_stage": 3},
    "bf16 ZeRO-2 without average": {"precision": "bf16", "zero_stage": 2, "ema_decay": 0.0},
    "bf16 ZeRO-3 fuser": {"precision": "bf16", "zero_stage": 3, "train": "fuser"},
}


def config(**fields: Any) -> TrainingConfig:
    common = {"steps": 2, "batch_size": 2, "workers": WORLD, "learning_rate": 1e-4, "ema_decay": 0.9}
    return TrainingConfig(**(common | fields))


def build(made: TrainingConfig) -> TrainingModule:
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(**TRANSFORMER)
    transformer.requires_grad_(made.train == "full")
    fuser = TokenFuser.build(FuserConfig(), text_dim=TEXT_DIM, llm_dim=LLM_DIM, text_length=TEXT_LENGTH)
    return TrainingModule(transformer, fuser, Schedule.from_scheduler(tiny_scheduler()))


def batch() -> Batch:
    tokens = TextTokens(
        t5=torch.randn(1, TEXT_LENGTH, TEXT_DIM),
        llm=torch.randn(1, 5, LLM_DIM),
        llm_mask=torch.ones(1, 5, dtype=torch.bool),
        instruction=torch.randn(1, 4, LLM_DIM),
    )
    latents = torch.randn(1, 3, 16, 8, 8)
    return Batch(
        ("clip",), latents, torch.randn_like(latents), torch.tensor([500]), torch.ones(1), torch.ones(1), tokens
    )


def alive() -> dict[int, int]:
    """Bytes of every tensor's storage in this process."""
    gc.collect()
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type == "cpu":
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None:
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = storage.nbytes()
    return found


def held_in_an_update(made: TrainingConfig) -> int:
    """The most bytes alive as the optimiser of the second step changes weights, without those of the batch."""
    most = 0

    def counted(self: AveragingAdamW, closure: Any = None) -> Any:
        nonlocal most
        result = plain(self, closure)
        most = max(most, sum(size for place, size in alive().items() if place not in before))
        return result

    plain = AveragingAdamW.step
    parts = batch()
    before = alive()
    engine = Engine(build(made), made, torch.device("cpu"))
    engine.step(parts, 0)
    AveragingAdamW.step = counted  # type: ignore[method-assign]
    try:
        engine.step(parts, 1)
    finally:
        AveragingAdamW.step = plain  # type: ignore[method-assign]
    return most


def _rank(rank: int, root: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=WORLD)
    torch.save({name: held_in_an_update(config(**case)) for name, case in CASES.items()}, root / f"held-{rank}.pt")
    dist.destroy_process_group()


def run_cases(root: Path) -> dict[str, int]:
    """Bytes that the first of two workers held, by case."""
    mp.start_processes(_rank, (root,), nprocs=WORLD, start_method="spawn")
    held: dict[str, int] = torch.load(root / "held-0.pt")
    return held
