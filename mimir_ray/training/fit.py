"""Ray Train runs the workers of a training run; the driver watches."""

import logging
import math
import os
import threading
from collections.abc import Callable
from typing import Any

from mimir_ray.config import UserError
from mimir_ray.model.config import ModelConfig
from mimir_ray.storage import filesystem
from mimir_ray.training.capacity import check_fits, cluster_nodes
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.metrics import Row, loss_text
from mimir_ray.training.run import CHECKPOINTS
from mimir_ray.training.tables import TrainingData

logger = logging.getLogger(__name__)


def fit(
    data: TrainingData,
    out: str,
    model: ModelConfig,
    config: TrainingConfig,
    on_metrics: Callable[[Row], None] | None,
) -> int:
    """Run Ray Train to the end; returns the step at which its last attempt began.

    Raises UserError for too few CPUs or GPUs, for too little memory and for what the workers found,
    ray.train.TrainingFailedError where they failed more often than ``max_failures``.
    """
    # A report blocks until the controller has looked, and it looks every 2 s unless told otherwise.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    import ray
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from mimir_ray.training.worker import Job, run_worker

    cluster: Any = ray
    work: Any = run_worker
    gpu = _use_gpu(config, cluster.cluster_resources())
    check_fits(model, config, max(data.buckets, key=math.prod), cluster_nodes(), gpu=gpu)
    system, path = filesystem(out)
    scaling: Any = ray.train.ScalingConfig
    workers: Any = (config.min_workers, config.workers) if config.min_workers else config.workers
    here = NodeAffinitySchedulingStrategy(cluster.get_runtime_context().get_node_id(), soft=False)
    progress = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})  # no other machine's end is its own
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": Job(data, out, model, config, progress)},
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
    )
    watcher = _Watcher(progress, config.steps, on_metrics)
    watcher.start()
    try:
        result: Any = trainer.fit()
        outcome = result.return_value
    except ray.train.TrainingFailedError as error:
        if (mistake := _mistake_in(error)) is not None:
            raise UserError(str(mistake)) from error
        raise
    finally:
        watcher.stop()
        progress.shutdown(force=True)
    if "problem" in outcome:
        raise UserError(outcome["problem"])
    return int(outcome["resumed_from"])


def _use_gpu(config: TrainingConfig, resources: dict[str, float]) -> bool:
    """Whether the workers get GPUs. Raises UserError where there are too few: Ray would wait for ever."""
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    name = "min_workers" if config.min_workers else "workers"
    need = config.min_workers or config.workers
    gpu = config.device == "cuda" or (config.device == "auto" and gpus >= need)
    kind, have = ("GPU", gpus) if gpu else ("CPU", cpus)
    if have < need:
        raise UserError(
            f"training.{name}={need} need a {kind} each and this Ray cluster has {have}; "
            + (f"set training.{name}={have}" if have else f"add a {kind} to the cluster")
            + (", or set training.device=auto" if config.device == "cuda" else "")
        )
    return gpu


def _mistake_in(error: BaseException) -> UserError | None:
    """The user's mistake that made a worker fail, if that is why."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, UserError):
                return cause
            cause = cause.__cause__
    return None


class _Watcher(threading.Thread):
    """Shows rows of metrics as the workers put them into the queue."""

    def __init__(self, queue: Any, steps: int, on_metrics: Callable[[Row], None] | None) -> None:
        super().__init__(name="training-progress", daemon=True)
        self._queue = queue
        self._steps = steps
        self._on_metrics = on_metrics
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Show what is left and end."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        while True:
            last = self._stopping.wait(0.3)
            for _ in range(self._queue.qsize()):
                self._show(self._queue.get_nowait())
            if last:
                return

    def _show(self, row: Row) -> None:
        logger.info(
            "step %d/%d  loss %s  learning rate %.1e  %.0f samples/s  %.0f s left",
            row["step"],
            self._steps,
            loss_text(row),
            row["learning_rate"],
            row["samples_per_s"],
            row["remaining_s"],
        )
        if self._on_metrics is not None:
            self._on_metrics(row)
