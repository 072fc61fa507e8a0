"""Training runs without Ray: two processes under DeepSpeed, and the plain torch loop that they must agree with."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mimir_ray.model.config import ModelConfig
from mimir_ray.training.batches import Batch, Batches
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.engine import Engine, learning_rate_at
from mimir_ray.training.loop import NonFiniteError, run_steps
from mimir_ray.training.module import load_start
from mimir_ray.training.tables import open_data

WORLD = 2
STEPS = 48
CHECKPOINT_EVERY = 4
BROKEN = "clip005"


def config(**fields: Any) -> TrainingConfig:
    return TrainingConfig(
        **{
            "steps": STEPS,
            "batch_size": 8,
            "workers": WORLD,
            "learning_rate": 1e-3,
            "fuser_learning_rate": 2e-3,
            "warmup_steps": 3,
            "log_every": 1,
            "checkpoint_every": CHECKPOINT_EVERY,
            "ema_decay": 0.8,
            "seed": 5,
        }
        | fields
    )


@dataclass(frozen=True)
class World:
    """Where the checkpoints and tables of the tests lie."""

    root: Path

    @property
    def data(self) -> str:
        return str(self.root / "data")

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(base=str(self.root / "base"), llm=str(self.root / "llm"))


@dataclass
class Outcome:
    """What a run left: the loss of each step, the final weights and their moving average."""

    losses: list[float]
    norms: list[float]
    weights: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor]


class BrokenBatches(Batches):
    """One clip has NaN latents."""

    def batch(self, step: int) -> Batch:
        made = super().batch(step)
        for row, clip_id in enumerate(made.clip_ids):
            if clip_id == BROKEN:
                made.latents[row] = float("nan")
        return made


def batches_of(world: World, made: TrainingConfig, rank: int, ranks: int, cls: type[Batches] = Batches) -> Batches:
    start = load_start(world.model, made.seed)
    data = open_data(world.data, True, made.caption_weights)
    return cls(
        data,
        made,
        scaling_factor=start.scaling_factor,
        timesteps=len(start.module.schedule),
        text_length=start.text_length,
        rank=rank,
        world=ranks,
    )


def plain(world: World, made: TrainingConfig, steps: int) -> Outcome:
    """One process, no DeepSpeed: what the engine must agree with."""
    module = load_start(world.model, made.seed).module.train()
    batches = batches_of(world, made, 0, 1)
    optimizer = torch.optim.AdamW(module.parameter_groups(made), betas=made.betas, weight_decay=made.weight_decay)
    losses, norms = [], []
    average: dict[str, torch.Tensor] = {}
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate_at(step, made)
        loss, _ = module(batches.batch(step))
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(module.parameters(), made.max_grad_norm)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        decay = min(made.ema_decay, (1 + step) / (10 + step))
        for name, weight in module.state_dict().items():
            average[name] = decay * average.get(name, weight) + (1 - decay) * weight
    return Outcome(losses, norms, module.state_dict(), average)


def sharded(root: Path, made: TrainingConfig, steps: int, *, resume_at: int | None = None) -> Outcome:
    """This rank's part of a run of ``steps`` steps, in a process group that exists.

    With ``resume_at`` the engine is thrown away after that checkpoint and a new one continues from it.
    """
    world = World(root)
    batches = batches_of(world, made, dist.get_rank(), WORLD)
    losses: list[float] = []
    norms: list[float] = []
    engine = Engine(load_start(world.model, made.seed).module, made, torch.device("cpu"))
    directory = root / "states" / f"{made.zero_stage}-{made.precision}-{resume_at}"

    class Enough(Exception):
        pass

    def record(row: dict[str, Any]) -> None:
        losses.append(row["loss"])
        norms.append(row["gradient_norm"])
        if row["step"] == steps and steps < made.steps and resume_at != steps:
            raise Enough

    def checkpoint(row: dict[str, Any]) -> None:
        if row["step"] == resume_at:
            engine.save(directory, resume_at)
            raise Enough

    with contextlib.suppress(Enough):
        run_steps(engine, batches, made, 0, record=record, checkpoint=checkpoint)
    if resume_at is not None:
        engine = Engine(load_start(world.model, made.seed + 1).module, made, torch.device("cpu"))
        done = engine.load(directory)
        assert done == resume_at
        if done < steps:
            with contextlib.suppress(Enough):
                run_steps(engine, batches, made, done, record=record, checkpoint=lambda row: None)
    average = engine.average() or {}
    weights = engine.weights() or {}
    return Outcome(losses, norms, {name: value.clone() for name, value in weights.items()}, average)


def refused(root: Path) -> str:
    """The message that a NaN in one clip's latents ends in, on this rank."""
    world, made = World(root), config(log_every=4)
    batches = batches_of(world, made, dist.get_rank(), WORLD, BrokenBatches)
    engine = Engine(load_start(world.model, made.seed).module, made, torch.device("cpu"))
    try:
        run_steps(engine, batches, made, 0, record=lambda row: None, checkpoint=lambda row: None)
    except NonFiniteError as error:
        return str(error)
    return ""


SHORT = 8


def _rank(rank: int, root: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=WORLD)
    outcomes: dict[str, Any] = {"whole": sharded(root, config(), STEPS)}
    for stage in (1, 2, 3):
        made = config(zero_stage=stage)
        outcomes[f"stage{stage}"] = sharded(root, made, SHORT)
        outcomes[f"stage{stage} loaded"] = sharded(root, made, SHORT, resume_at=SHORT)
        outcomes[f"stage{stage} resumed"] = sharded(root, made, SHORT, resume_at=CHECKPOINT_EVERY)
    outcomes["accumulated"] = sharded(root, config(accumulate=2), SHORT)
    outcomes["bf16"] = sharded(root, config(precision="bf16"), SHORT)
    outcomes["bf16 resumed"] = sharded(root, config(precision="bf16"), SHORT, resume_at=CHECKPOINT_EVERY)
    outcomes["checkpointed"] = sharded(root, config(gradient_checkpointing=True), SHORT)
    outcomes["refused"] = refused(root)
    torch.save(outcomes, root / f"outcomes-{rank}.pt")
    dist.destroy_process_group()


def run_without_ray(world: World) -> list[dict[str, Any]]:
    """Every sharded run, in two processes; what each rank found."""
    mp.start_processes(_rank, (world.root,), nprocs=WORLD, start_method="spawn")
    return [torch.load(world.root / f"outcomes-{rank}.pt", weights_only=False) for rank in range(WORLD)]
