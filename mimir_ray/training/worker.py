"""What each worker of Ray Train runs: load or resume, train, report checkpoints."""

import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from mimir_ray.config import UserError
from mimir_ray.storage import content_id, join
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.batches import Batches
from mimir_ray.training.engine import Engine
from mimir_ray.training.job import Job
from mimir_ray.training.loop import NonFiniteError, run_steps
from mimir_ray.training.module import Start, load_start
from mimir_ray.training.reporting.metrics import MetricsFile, MetricsRow
from mimir_ray.training.state.pieces import TrainingProgress
from mimir_ray.training.state.run import METRICS, checkpoint_name

logger = logging.getLogger(__name__)

T = TypeVar("T")


def work(job: Job) -> dict[str, Any]:
    """Train; returns {"resumed_from": step} or {"problem": what the user must mend}."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        start, batches = _together(lambda: _prepare(job, rank, world))
        engine = Engine(start.module, job.config, device)
        done = _together(lambda: _resume(engine))
        if done.step < job.config.steps:
            _together(lambda: batches.batch(done.step))  # the first one proves that the tables fit the model
    except UserError as error:
        return {"problem": str(error)}
    metrics = MetricsFile(join(job.out, METRICS), done.step) if rank == 0 else None
    scratch = f"mimir-checkpoint-{content_id(job.out)}-{rank}-"
    for leftover in Path(tempfile.gettempdir()).glob(f"{scratch}*"):  # of a worker that was killed
        shutil.rmtree(leftover, ignore_errors=True)

    def record(row: MetricsRow) -> None:
        if metrics is not None:
            metrics.append(row)
            job.feed.put_nowait(row)

    def checkpoint(row: MetricsRow) -> None:
        if metrics is not None:
            metrics.flush()
        directory = tempfile.mkdtemp(prefix=scratch)
        engine.save(Path(directory), row["step"])
        ray.train.report(
            _checkpoint_metrics(row),
            checkpoint=ray.train.Checkpoint.from_directory(directory),
            checkpoint_dir_name=checkpoint_name(row["step"]),
            # Training goes on while the files travel; Ray removes the directory when they have arrived.
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            validation=_validation(row["step"], job.config),
        )

    try:
        run_steps(engine, batches, job.config, done, record=record, checkpoint=checkpoint)
    except NonFiniteError as error:
        return {"problem": str(error)}
    return {"resumed_from": done.step}


def _checkpoint_metrics(row: MetricsRow) -> dict[str, Any]:
    """What decides which checkpoints are kept; what is not known, or not yet, is the worst there is.

    Ray Train keeps metrics as JSON, where infinity and NaN become null, on which a run that goes on would fail; and a
    loss that is left out would count as the best.
    """
    worst = sys.float_info.max
    return {"step": row["step"], "loss": worst if row["loss"] is None else row["loss"], "score": -worst}


def _validation(step: int, config: TrainingConfig) -> Any:
    every = config.validation.every
    due = every > 0 and (step % every == 0 or step == config.steps)
    return ray.train.ValidationTaskConfig(fn_kwargs={"step": step}) if due else False


def _prepare(job: Job, rank: int, world: int) -> tuple[Start, Batches]:
    """Raises UserError where the starting checkpoint or the tables are not usable."""
    start = load_start(job.model, job.config)
    return start, Batches(
        job.data,
        job.config,
        scaling_factor=start.scaling_factor,
        timesteps=len(start.module.schedule),
        text_length=start.text_length,
        temporal_patch=start.temporal_patch,
        rank=rank,
        world=world,
    )


def _together(work: Callable[[], T]) -> T:
    """What ``work`` returns; a UserError of any worker is raised on all of them, so that none waits for another."""
    problem, value = None, None
    try:
        value = work()
    except UserError as error:
        problem = str(error)
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    for found in problems:
        if found is not None:
            raise UserError(found)
    return cast(T, value)


def _resume(engine: Engine) -> TrainingProgress:
    """Load the last reported checkpoint, if there is one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return TrainingProgress(0, 0)
    with checkpoint.as_directory() as directory:
        done = engine.load(Path(directory))
        dist.barrier()  # the directory may be one download that the workers of a node share
    logger.info("resumed from step %d", done.step)
    return done
