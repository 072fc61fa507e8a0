"""``train``: a run from the tables to the exported model."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from mimir_ray.config import Config
from mimir_ray.generation.config import GenerationConfig
from mimir_ray.model.base import check_base
from mimir_ray.model.config import ModelConfig
from mimir_ray.storage import absolute, content_id, join
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.samples import open_data
from mimir_ray.training.data.source import TableSource
from mimir_ray.training.fit import check_memory, check_workers, fit
from mimir_ray.training.reporting.feed import Feed
from mimir_ray.training.reporting.loggers import check_packages, open_loggers
from mimir_ray.training.reporting.metrics import MetricsRow, read_metrics, row_text
from mimir_ray.training.reporting.validation import Scorer, Validation, check_validation
from mimir_ray.training.reporting.validator import Validator
from mimir_ray.training.state.run import METRICS, Run, begin, check_out, ended, finish, finished

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
    first_loss: float | None
    """Mean of the first row of metrics.jsonl; None where every step was left out."""
    last_loss: float | None
    """Mean over the rows of the last tenth of the run, likewise."""
    resumed_from: int
    """Step at which the last attempt began; 0 for a run that was never interrupted."""
    seconds: float
    """Wall time of this call."""
    already_finished: bool
    """True where a run of the same configuration on the same tables had finished before, and nothing was done."""


def train(
    data: str,
    out: str,
    model: ModelConfig,
    config: TrainingConfig,
    *,
    source: Callable[[], TableSource] | None = None,
    on_metrics: Callable[[MetricsRow], None] | None = None,
    generation: GenerationConfig | None = None,
    scorer: Scorer | None = None,
) -> TrainingSummary:
    """Fine-tune ``model`` on the tables under ``data``; Ray must be initialised.

    ``out`` gets ``checkpoints/``, ``metrics.jsonl``, ``validation/`` and ``export/`` (a MimirPipeline), and what
    ``config.logging`` asks for. Called again on the same ``out`` it continues from the last checkpoint, and does
    nothing where the run has finished; with more ``steps`` it goes on along the longer schedule.

    Args:
        source: makes the rows if they are not in tables under ``data``; the same rows make the same run. It is called
            when the workers, the loggers' packages and what ``out`` holds have been looked at.
        on_metrics: called in a thread of this process with every row of metrics.jsonl as it is written; where None, a
            log line tells of each.
        generation: size, steps and guidance of the videos that ``config.validation`` asks for, and their device.
        scorer: what scores them; it is pickled to where they are made.

    Raises:
        UserError: a base that cannot be run, tables that are missing or do not fit, an ``out`` of another run, too few
            CPUs or GPUs, a validation that lacks something, a logger that does not take the run, a loss or a gradient
            that is not finite.
        ray.train.TrainingFailedError: workers failed more than ``max_failures`` times.
    """
    began = time.monotonic()
    check_validation(config, generation, scorer)
    data, out, model = absolute(data), absolute(out), model.located()
    check_base(model.base, model.revision)
    if source is not None:  # which encodes, for hours perhaps
        check_out(out, model, config)
        if not ended(out):
            check_packages(config.logging)
            check_workers(config)
    prepared = open_data(data, model.fuser.decoder, config.caption_weights, source and source())
    run = Run(
        model=model,
        training=config,
        tables=prepared.fingerprints,
        samples=content_id(*(f"{shard}={content}" for shard, content in sorted(prepared.contents.items()))),
    )
    steps_before = begin(out, run)
    before = finished(out, run)
    resumed_from = 0
    if not before:
        if prepared.unusable:
            logger.warning("%d clips have no usable caption and take no part", prepared.unusable)
        logger.info("training on %d clips, %d steps of %d", prepared.clips, config.steps, config.batch_size)
        _say_resumed(out, config, steps_before)
        gpu = check_workers(config)
        check_memory(prepared, model, config, gpu=gpu)
        with open_loggers(config.logging, out, run.model_dump(mode="json")) as loggers:
            show = on_metrics or partial(_log, config.steps)
            with Feed([show, loggers.log], [_log_validation, loggers.log_validation]) as feed:
                validator = None
                if generation is not None and config.validation.every:
                    validator = Validator(model, config, generation, out, scorer, feed.queue)
                resumed_from = fit(prepared, out, model, config, gpu=gpu, feed=feed.queue, validator=validator)
            _export(out)
        finish(out, run, time.monotonic() - began)
    rows = [row for row in read_metrics(join(out, METRICS)) if row["loss"] is not None]
    tail = [row["loss"] for row in rows if row["step"] > 0.9 * config.steps]
    return TrainingSummary(
        export=join(out, "export"),
        steps=config.steps,
        clips=prepared.clips,
        unusable=prepared.unusable,
        first_loss=rows[0]["loss"] if rows else None,
        last_loss=sum(tail) / len(tail) if tail else None,
        resumed_from=resumed_from,
        seconds=time.monotonic() - began,
        already_finished=before,
    )


def _say_resumed(out: str, config: TrainingConfig, steps_before: int | None) -> None:
    """Say that a run goes on, from where, and what its schedule means where it is to have more steps now."""
    from mimir_ray.training.engine import learning_rate_at
    from mimir_ray.training.state.checkpoints import checkpoint_steps

    if not (there := checkpoint_steps(out)):
        return
    last = there[-1]
    logger.info(
        "%s goes on from step %d of %d, with weights, moments and the order of samples as they were",
        *(out, last, config.steps),
    )
    if steps_before is not None:
        rates = (
            learning_rate_at(min(last, steps - 1), config.model_copy(update={"steps": steps}))
            for steps in (steps_before, config.steps)
        )
        logger.warning(
            "it was to have %d steps and has %d now: the learning rate is that of the longer schedule from here on, at "
            "first %.3g of its peak, where it was %.3g; training.schedule=constant has no such step",
            *(steps_before, config.steps, *reversed(tuple(rates))),
        )


def _log(steps: int, row: MetricsRow) -> None:
    logger.info("step %d/%d  %s", row["step"], steps, row_text(row))


def _log_validation(validation: Validation) -> None:
    if validation.made:
        score = "" if validation.score is None else f"  score {validation.score:.3f}"
        logger.info(
            "validated step %d%s  %d videos  %.0f s", validation.step, score, validation.made, validation.seconds
        )
    for reason in validation.reasons:
        logger.warning("validation of step %d: %s", validation.step, reason)


def _export(out: str) -> None:
    """Export the last checkpoint, on any machine of the cluster: the driver's may be a small one."""
    import ray

    from mimir_ray.training.export import export_run

    cluster: Any = ray
    cluster.get(cluster.remote(export_run).options(num_cpus=1).remote(out))
