"""``train``: the driver's side of a run. It checks, starts Ray Train, shows progress and writes the account."""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from mimir_ray.config import Config, UserError, differences, fingerprint
from mimir_ray.model.config import ModelConfig
from mimir_ray.records import SCHEMA_VERSION
from mimir_ray.storage import absolute, content_id, exists, filesystem, join, read_json, write_json
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.metrics import Row, read_metrics
from mimir_ray.training.tables import TrainingData, open_data

logger = logging.getLogger(__name__)


class TrainingSummary(Config):
    """What a run came to."""

    export: str
    """Directory of the finished MimirPipeline."""
    steps: int
    clips: int
    """Clips that took part."""
    unusable: int
    """Clips with latents but without a usable caption."""
    first_loss: float
    """Mean of the first row of metrics.jsonl."""
    last_loss: float
    """Mean over the rows of the last tenth of the run."""
    resumed_from: int
    """Step at which the last attempt began; 0 for a run that was never interrupted."""
    seconds: float
    """Wall time of this call."""
    already_finished: bool
    """True where a run of the same configuration on the same tables had finished before, and nothing was done."""


class _Run(Config):
    """What determines the weights that come out: another value of any of these is another run."""

    schema_version: int = SCHEMA_VERSION
    model: ModelConfig
    training: TrainingConfig
    tables: dict[str, str]
    """Configuration fingerprint of each table."""
    samples: str
    """Content id of the shard names and their usable samples."""


def train(
    data: str,
    out: str,
    model: ModelConfig,
    config: TrainingConfig,
    *,
    on_metrics: Callable[[Row], None] | None = None,
) -> TrainingSummary:
    """Fine-tune ``model`` on the tables under ``data``; Ray must be initialised.

    ``out`` gets ``checkpoints/``, ``metrics.jsonl`` and ``export/`` (a MimirPipeline). Called again on the same ``out``
    it continues from the last checkpoint, and does nothing where the run has finished.

    Args:
        on_metrics: called in a thread of this process with every row of metrics.jsonl as it is written.

    Raises:
        UserError: tables that are missing or do not fit, an ``out`` of another run, too few CPUs or GPUs, a loss or a
            gradient that is not finite.
        ray.train.TrainingFailedError: workers failed more than ``max_failures`` times.
    """
    began = time.monotonic()
    data, out = absolute(data), absolute(out)
    prepared = open_data(data, model.fuser.decoder, config.caption_weights)
    run = _Run(
        model=model,
        training=config,
        tables=prepared.fingerprints,
        samples=content_id(*(f"{shard}={count}" for shard, count in sorted(prepared.counts.items()))),
    )
    _begin(out, run)
    finished = _finished(out, run)
    resumed_from = 0
    if not finished:
        if prepared.unusable:
            logger.warning("%d clips have no usable caption and take no part", prepared.unusable)
        logger.info("training on %d clips, %d steps of %d", prepared.clips, config.steps, config.batch_size)
        account = run.model_dump(mode="json") | {"fingerprint": fingerprint(run), "clips": prepared.clips}
        resumed_from = _fit(prepared, out, model, config, account, on_metrics)
        write_json(join(out, "_manifest.json"), account | {"seconds": time.monotonic() - began})
    rows = read_metrics(join(out, "metrics.jsonl"))
    tail = [row["loss"] for row in rows if row["step"] > 0.9 * config.steps]
    return TrainingSummary(
        export=join(out, "export"),
        steps=config.steps,
        clips=prepared.clips,
        unusable=prepared.unusable,
        first_loss=rows[0]["loss"],
        last_loss=sum(tail) / len(tail),
        resumed_from=resumed_from,
        seconds=time.monotonic() - began,
        already_finished=finished,
    )


def _begin(out: str, run: _Run) -> None:
    """Claim ``out`` for this run. Raises UserError where another one has already trained there."""
    uri = join(out, "_run.json")
    if exists(uri) and exists(join(out, "metrics.jsonl")):
        changed = differences(read_json(uri), run.model_dump(mode="json"))
        if changed:
            raise UserError(
                f"{out} holds another run: {'; '.join(changed)}. Choose another --out, remove {out}, or undo the change"
            )
    else:
        write_json(uri, run.model_dump(mode="json"))


def _finished(out: str, run: _Run) -> bool:
    uri = join(out, "_manifest.json")
    complete = exists(uri) and exists(join(out, "export", "model_index.json"))
    return complete and bool(read_json(uri)["fingerprint"] == fingerprint(run))


def _fit(
    data: TrainingData,
    out: str,
    model: ModelConfig,
    config: TrainingConfig,
    account: dict[str, Any],
    on_metrics: Callable[[Row], None] | None,
) -> int:
    """Run Ray Train to the end; returns the step at which its last attempt began."""
    # A report blocks until the controller has looked, and it looks every 2 s unless told otherwise.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    import ray
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.queue import Queue

    from mimir_ray.training.worker import Job, run_worker

    cluster: Any = ray
    work: Any = run_worker
    gpu = _use_gpu(config, cluster.cluster_resources())
    system, path = filesystem(out)
    progress = Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": Job(data, out, model, config, account, progress)},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=config.workers, use_gpu=gpu),
        run_config=ray.train.RunConfig(
            name="checkpoints",
            storage_path=path,
            storage_filesystem=system,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.keep_checkpoints),
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
    gpu = config.device == "cuda" or (config.device == "auto" and gpus >= config.workers)
    kind, have = ("GPU", gpus) if gpu else ("CPU", cpus)
    if have < config.workers:
        raise UserError(
            f"training.workers={config.workers} need a {kind} each and this Ray cluster has {have}; "
            + (f"set training.workers={have}" if have else f"add a {kind} to the cluster")
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
            "step %d/%d  loss %.4f  learning rate %.1e  %.0f samples/s  %.0f s left",
            row["step"],
            self._steps,
            row["loss"],
            row["learning_rate"],
            row["samples_per_s"],
            row["remaining_s"],
        )
        if self._on_metrics is not None:
            self._on_metrics(row)
