"""Ray Train runs the workers of a training run, and its validations."""

import math
import os
from typing import Any

from mimir_ray.config import UserError
from mimir_ray.model.config import ModelConfig
from mimir_ray.room import Need, find_room, may_fit, room
from mimir_ray.storage import filesystem
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.samples import TrainingData
from mimir_ray.training.job import Job
from mimir_ray.training.reporting.validator import Validator
from mimir_ray.training.sizing.capacity import check_fits, cluster_nodes
from mimir_ray.training.state.run import CHECKPOINTS


def check_workers(config: TrainingConfig) -> bool:
    """Whether the workers get GPUs. Raises UserError where the cluster has no room for them and the validation."""
    gpu = config.device == "cuda" or (config.device == "auto" and may_fit(needs(config, gpu=True)[:1]))
    find_room("training", needs(config, gpu=gpu))
    return gpu


def needs(config: TrainingConfig, *, gpu: bool) -> list[Need]:
    """What a run holds at once: its workers, or the fewest of them, and a validation beside them."""
    fields = ("min_workers" if config.min_workers else "workers", "", "")
    count = config.min_workers or config.workers
    without_gpu = "training.device=auto" if config.device == "cuda" else ""
    each: dict[str, Any] = {"gpus": 1.0, "without_gpu": without_gpu} if gpu else {"cpus": 1.0}
    found = [Need("training", count, fields=fields, **each)]
    if (validation := config.validation).every:
        fields = ("", "num_cpus", "num_gpus")
        found.append(Need("training.validation", 1, validation.num_cpus, validation.num_gpus, fields))
    return found


def check_memory(data: TrainingData, model: ModelConfig, config: TrainingConfig, *, gpu: bool) -> None:
    """Whether the machines' memory holds what the largest samples take: raises UserError or warns (``check_fits``).

    Nothing is known of machines that are yet to come.
    """
    if find_room("training", needs(config, gpu=gpu)):
        return
    check_fits(model, config, max(data.buckets, key=math.prod), cluster_nodes(), gpu=gpu)


def fit(
    data: TrainingData,
    out: str,
    model: ModelConfig,
    config: TrainingConfig,
    *,
    gpu: bool,
    feed: Any,
    validator: Validator | None,
) -> int:
    """Run Ray Train to the end, its last validation included; returns the step at which its last attempt began.

    Args:
        gpu: whether each worker gets one.
        feed: a ``ray.util.queue.Queue`` into which every row of metrics goes.
        validator: called with the checkpoints that are due for it; None for none.

    Raises UserError for what the workers found, ray.train.TrainingFailedError where they failed more often than
    ``max_failures``.
    """
    # A report blocks until the controller has looked, and it looks every 2 s unless told otherwise.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    work: Any = run_worker
    system, path = filesystem(out)
    scaling: Any = ray.train.ScalingConfig
    workers: Any = (config.min_workers, config.workers) if config.min_workers else config.workers
    trainer_class: Any = TorchTrainer
    trainer = trainer_class(
        work,
        train_loop_config={"job": Job(data, out, model, config, feed)},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=scaling(
            num_workers=workers, use_gpu=gpu, elastic_resize_monitor_interval_s=config.resize_check_s
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=path,
            storage_filesystem=system,
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=config.keep_checkpoints,
                checkpoint_score_attribute=None if config.keep_by == "step" else config.keep_by,
                checkpoint_score_order="min" if config.keep_by == "loss" else "max",
            ),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
        ),
        validation_config=validator and _validation_config(validator),
    )
    try:
        with room("training", needs(config, gpu=gpu)):
            result: Any = trainer.fit()
        outcome = result.return_value
    except ray.train.TrainingFailedError as error:
        if (mistake := _mistake_in(error)) is not None:
            raise UserError(str(mistake)) from error
        raise
    if "problem" in outcome:
        raise UserError(outcome["problem"])
    return int(outcome["resumed_from"])


def run_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Train ``settings["job"]``; returns {"resumed_from": step} or {"problem": what the user must mend}."""
    from mimir_ray.training.worker import work

    job: Job = settings["job"]
    return work(job)


def _validation_config(validator: Any) -> Any:
    from ray.train import ValidationConfig

    # It only waits for a task that has what it needs. If its machine goes, Ray starts it again elsewhere.
    return ValidationConfig(fn=validator, ray_remote_kwargs={"num_cpus": 0, "max_retries": -1})


def _mistake_in(error: BaseException) -> UserError | None:
    """The user's mistake that made a worker fail, if that is why."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, UserError):
                return cause
            cause = cause.__cause__
    return None
