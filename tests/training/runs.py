"""Training runs without Ray: two processes under DeepSpeed, and the plain torch loop that they must agree with."""

import contextlib
import gc
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mimir_ray.model.config import ModelConfig
from mimir_ray.training.config import LoraConfig, TrainingConfig
from mimir_ray.training.data.batches import Batch, Batches, Share
from mimir_ray.training.data.samples import open_data
from mimir_ray.training.engine import Engine, learning_rate_at
from mimir_ray.training.loop import NonFiniteError, run_steps
from mimir_ray.training.module import load_start
from mimir_ray.training.state.pieces import TrainingProgress, read_weights

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
    """What a run left: the loss and gradient norm of each step, its last row, and its state by name, flat."""

    losses: list[float | None]
    norms: list[float]
    row: dict[str, Any]
    weights: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]
    computed: dict[str, torch.Tensor]
    """What the module itself has; of a worker that has it whole."""


class BrokenBatches(Batches):
    """One clip has NaN latents."""

    def batch(self, step: int) -> Batch:
        made = super().batch(step)
        for row, clip_id in enumerate(made.clip_ids):
            if clip_id == BROKEN:
                made.latents[row] = float("nan")
        return made


def batches_of(world: World, made: TrainingConfig, rank: int, ranks: int, cls: type[Batches] = Batches) -> Batches:
    start = load_start(world.model, made)
    data = open_data(world.data, True, made.caption_weights)
    return cls(
        data,
        made,
        scaling_factor=start.scaling_factor,
        timesteps=len(start.module.schedule),
        text_length=start.text_length,
        temporal_patch=start.temporal_patch,
        rank=rank,
        world=ranks,
    )


def plain(world: World, made: TrainingConfig, steps: int, cls: type[Batches] = Batches) -> Outcome:
    """One process, no DeepSpeed: what the engine must agree with."""
    module = load_start(world.model, made).module.train()
    batches = batches_of(world, made, 0, 1, cls)
    optimizer = torch.optim.AdamW(module.parameter_groups(made), betas=made.betas, weight_decay=made.weight_decay)
    trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    losses: list[float | None] = []
    norms: list[float] = []
    row: dict[str, Any] = {}
    average: dict[str, torch.Tensor] = {}
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate_at(step, made)
        loss, _ = module(batches.batch(step))
        loss.backward()
        fuser = module.token_fuser
        row = fuser.telemetry(gradients={name: weight.grad for name, weight in fuser.named_parameters()})
        norm = float(torch.nn.utils.clip_grad_norm_(trained.values(), made.max_grad_norm))
        if math.isfinite(norm):
            optimizer.step()
            decay = min(made.ema_decay, (1 + step) / (10 + step))
            for name, weight in trained.items():
                average[name] = decay * average.get(name, weight.detach()) + (1 - decay) * weight.detach()
        optimizer.zero_grad()
        losses.append(float(loss.detach()) if math.isfinite(norm) else None)
        norms.append(norm)
    weights = {name: weight.detach().flatten() for name, weight in trained.items()}
    return Outcome(losses, norms, row, weights, {name: value.flatten() for name, value in average.items()}, {}, {})


def start_engine(world: World, made: TrainingConfig) -> Engine:
    return Engine(load_start(world.model, made).module, made, torch.device("cpu"))


class Enough(Exception):
    """The steps that the test wants are done."""


def sharded(
    world: World,
    made: TrainingConfig,
    first: int,
    last: int,
    directory: Path,
    source: Path | None = None,
    cls: type[Batches] = Batches,
) -> Outcome:
    """This rank's part of steps ``first`` to ``last`` in a process group that exists; its state goes to ``directory``.

    ``source`` is the state that an engine whose fuser was drawn from another seed goes on from.
    """
    ranks = dist.get_world_size()
    batches = batches_of(world, made, dist.get_rank(), ranks, cls)
    other = made if source is None else made.model_copy(update={"seed": made.seed + 1})
    module = load_start(world.model, other).module
    engine = Engine(module, other, torch.device("cpu"))
    progress = TrainingProgress(0, 0) if source is None else engine.load(source)
    assert progress.step == first
    rows: list[dict[str, Any]] = []

    def record(row: dict[str, Any]) -> None:
        rows.append(row)
        if row["step"] == last:
            engine.save(directory, last)
            raise Enough

    with contextlib.suppress(Enough):
        run_steps(engine, batches, made, progress, record=record, checkpoint=lambda row: None)
    dist.barrier()
    computed = {name: value.clone() for name, value in module.state_dict().items()} if made.zero_stage < 3 else {}
    return outcome(rows, directory, made, computed)


def outcome(
    rows: list[dict[str, Any]], directory: Path, made: TrainingConfig, computed: dict[str, torch.Tensor] | None = None
) -> Outcome:
    kinds: tuple[Any, ...] = ("exp_avg", "exp_avg_sq")
    return Outcome(
        losses=[row["loss"] for row in rows],
        norms=[row["gradient_norm"] for row in rows],
        row=rows[-1],
        weights=read_weights(directory, "weight"),
        average=read_weights(directory, "average") if made.ema_decay else {},
        moments={f"{kind}/{name}": value for kind in kinds for name, value in read_weights(directory, kind).items()},
        computed=computed or {},
    )


SHORT = 8
MIDDLE = 4
COMBINATIONS = [(stage, precision) for stage in (1, 2, 3) for precision in ("fp32", "bf16")]
"""In this order: ZeRO 3 replaces torch's linear layer in its process for good, and in bf16 that one rounds differently.
"""
VARIANTS: dict[str, dict[str, Any]] = {
    "accumulated": {"accumulate": 2},
    "checkpointed": {"gradient_checkpointing": True},
    "offloaded": {"offload": "optimizer"},
    "offloaded whole": {"offload": "all", "zero_stage": 3},
}
PARTS: dict[str, dict[str, Any]] = {
    "fuser": {"train": "fuser"},
    "lora": {"train": "lora", "lora": LoraConfig(rank=4, alpha=8)},
}
"""What else is trained than everything."""


def refused(world: World) -> str:
    """The message that NaN in one clip's latents ends in, on this rank."""
    made = config(log_every=4, max_skipped_steps=0)
    batches = batches_of(world, made, dist.get_rank(), WORLD, BrokenBatches)
    try:
        run_steps(
            start_engine(world, made),
            batches,
            made,
            TrainingProgress(0, 0),
            record=lambda row: None,
            checkpoint=lambda row: None,
        )
    except NonFiniteError as error:
        return str(error)
    return ""


def _uninterrupted(world: World, states: Path) -> dict[str, Any]:
    """Those runs of two ranks that others are held against."""
    aside = states / "uninterrupted"
    found: dict[str, Any] = {"whole": sharded(world, config(), 0, STEPS, aside / "whole")}
    for stage, precision in COMBINATIONS:
        name, made = f"stage{stage} {precision}", config(zero_stage=stage, precision=precision)
        found[name] = sharded(world, made, 0, SHORT, aside / name)
    return found


def _two(world: World, states: Path) -> dict[str, Any]:
    """Runs of two ranks."""
    found: dict[str, Any] = {"whole": sharded(world, config(), 0, STEPS, states / "whole")}
    for stage, precision in COMBINATIONS:
        name, made = f"stage{stage} {precision}", config(zero_stage=stage, precision=precision)
        found[name] = sharded(world, made, 0, SHORT, states / name)
        half = states / f"{name} half"
        sharded(world, made, 0, MIDDLE, half)
        found[f"{name} resumed"] = sharded(world, made, MIDDLE, SHORT, states / f"{name} resumed", half)
    for name, fields in (VARIANTS | PARTS).items():
        found[name] = sharded(world, config(**fields), 0, SHORT, states / name)
    for name, fields in PARTS.items():
        made = config(zero_stage=3, precision="bf16", **fields)
        sharded(world, made, 0, MIDDLE, states / f"{name} half")
        found[f"{name} sharded"] = sharded(world, made, 0, SHORT, states / f"{name} sharded")
        found[f"{name} resumed"] = sharded(
            world, made, MIDDLE, SHORT, states / f"{name} resumed", states / f"{name} half"
        )
    for stage in (1, 2, 3):
        made = config(zero_stage=stage, max_skipped_steps=SHORT)
        found[f"skipped{stage}"] = sharded(world, made, 0, SHORT, states / f"skipped{stage}", cls=BrokenBatches)
    made, half = config(max_skipped_steps=SHORT), states / "skipped2 half"
    sharded(world, made, 0, SHORT - 1, half, cls=BrokenBatches)
    found["skipped2 resumed"] = sharded(
        world, made, SHORT - 1, SHORT, states / "skipped2 resumed", half, cls=BrokenBatches
    )
    found["refused"] = refused(world)
    for stage in (2, 3):
        name, made = f"stage{stage} bf16", config(zero_stage=stage, precision="bf16")
        engine = start_engine(world, made)
        found[f"{name} loaded"] = engine.load(states / name)
        engine.save(states / f"{name} again", SHORT)
    return found


def _first(world: World, states: Path) -> dict[str, Any]:
    """Runs of two ranks that one goes on from, and one that is compiled, which takes long."""
    found = {}
    for stage in (1, 2, 3):
        directory = states / f"stage{stage} first"
        found[f"stage{stage} first"] = sharded(world, config(zero_stage=stage), 0, MIDDLE, directory)
    if shutil.which("g++"):
        found["compiled"] = sharded(world, config(compile=True), 0, SHORT, states / "compiled")
    return found


def _one(world: World, states: Path) -> dict[str, Any]:
    """Runs of one rank that go on from two."""
    found = {}
    for stage in (1, 2, 3):
        made, first = config(zero_stage=stage), states / f"stage{stage} first"
        found[f"stage{stage} alone"] = sharded(world, made, MIDDLE, MIDDLE + 2, states / f"stage{stage} alone", first)
    return found


def _two_again(world: World, states: Path) -> dict[str, Any]:
    """Runs of two ranks that go on from one, under another stage than before."""
    found = {}
    for stage in (1, 2, 3):
        made, alone = config(zero_stage=stage % 3 + 1), states / f"stage{stage} alone"
        found[f"stage{stage} together"] = sharded(world, made, MIDDLE + 2, SHORT, states / f"{stage}", alone)
    return found


def _three(world: World, states: Path) -> dict[str, Any]:
    """A run of three ranks, of which the last has nothing but what fills a batch up."""
    made = config(workers=4, min_workers=1)
    assert Share.of(made, 3) == Share(samples=4, parts=2, weight=12 / 8)
    return {"filled up": sharded(world, made, 0, SHORT, states / "filled up")}


def _rank(rank: int, ranks: int, work: Any, world: World, name: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{world.root}/{name}", rank=rank, world_size=ranks)
    gc.freeze()  # DeepSpeed collects garbage with each engine: what was imported need not be looked through
    torch.save(work(world, world.root / "states"), world.root / f"{name}-{rank}.pt")
    dist.destroy_process_group()


EVERY = (("two", _two, 2),)
RESIZED = (("first", _first, 2), ("one", _one, 1), ("again", _two_again, 2), ("three", _three, 3))
UNINTERRUPTED = (("uninterrupted", _uninterrupted, 2),)


def run_without_ray(world: World, works: Sequence[tuple[str, Any, int]]) -> list[dict[str, Any]]:
    """Sharded runs, in processes of their own; what each of two ranks found."""
    outcomes: list[dict[str, Any]] = [{}, {}]
    for name, work, ranks in works:
        mp.start_processes(_rank, (ranks, work, world, name), nprocs=ranks, start_method="spawn")
        for rank in range(min(ranks, WORLD)):
            outcomes[rank] |= torch.load(world.root / f"{name}-{rank}.pt", weights_only=False)
    return outcomes
