"""MLflow and W&B as loggers of a run. Their packages are imported where they are asked for, and nowhere else."""

import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.fs as pafs

from mimir_ray.config import UserError
from mimir_ray.storage import exists, filesystem, join, parent, read_json, write_json
from mimir_ray.training.config import LoggingConfig
from mimir_ray.training.reporting.metrics import Group, MetricsRow, scalars


class MlflowLogger:
    """A run of MLflow at MLFLOW_TRACKING_URI; its id is kept in ``out/loggers.json``."""

    def __init__(self, config: LoggingConfig, out: str, parameters: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        try:
            self._client = MlflowClient()
            known = _remembered(out).get("mlflow")
            self._run = known or self._begin(config, out, {k: Param(k, v) for k, v in _texts(parameters)})
            if known:
                self._client.update_run(known, status="RUNNING")
            history = self._client.get_metric_history(self._run, "train/loss") if known else []
            self._last = max((metric.step for metric in history), default=0)
        except Exception as error:
            remedy = "set MLFLOW_TRACKING_URI to a tracking server"
            if _remembered(out).get("mlflow"):
                remedy += f", or remove {join(out, 'loggers.json')} to begin a new run there"
            raise _refused("mlflow", "MLflow", error, remedy) from error

    def _begin(self, config: LoggingConfig, out: str, parameters: dict[str, Any]) -> str:
        experiment = self._client.get_experiment_by_name(config.project)
        where = experiment.experiment_id if experiment else self._client.create_experiment(config.project)
        run = str(self._client.create_run(where, run_name=_name(config, out)).info.run_id)
        listed = list(parameters.values())
        for first in range(0, len(listed), 100):  # as many as MLflow takes at once
            self._client.log_batch(run, params=listed[first : first + 100])
        _remember(out, "mlflow", run)
        return run

    def log(self, row: MetricsRow, group: Group) -> None:
        """Record the numbers of a row that is not there yet."""
        if group == "train" and row["step"] <= self._last:
            return
        now = int(time.time() * 1000)
        values = scalars(row).items()
        metrics = [self._metric(f"{group}/{name}", value, now, row["step"]) for name, value in values]
        self._client.log_batch(self._run, metrics=metrics)

    def log_video(self, tag: str, path: str, step: int) -> None:
        """Record the file as an artifact."""
        self._client.log_artifact(self._run, path, f"validation/step-{step:08d}/{tag}")

    def close(self, *, failed: bool) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


class WandbLogger:
    """A run of W&B; its id is kept in ``out/loggers.json``. WANDB_MODE and its like are obeyed."""

    def __init__(self, config: LoggingConfig, out: str, parameters: Mapping[str, Any]) -> None:
        import wandb

        self._wandb: Any = wandb
        system, path = filesystem(out)
        folder = os.environ.get("WANDB_DIR") or (path if isinstance(system, pafs.LocalFileSystem) else None)
        known = _remembered(out).get("wandb")
        try:
            self._run = self._wandb.init(
                project=config.project,
                name=_name(config, out),
                id=known or secrets.token_hex(4),
                resume="allow",
                dir=folder or tempfile.gettempdir(),
                config=dict(parameters),
            )
        except Exception as error:
            raise _refused("wandb", "W&B", error, "run `wandb login`, or set WANDB_MODE=offline") from error
        if not known:
            _remember(out, "wandb", self._run.id)
        # W&B's own step only grows, and a validation's is older than that of the rows around it.
        for group in ("train", "validation"):
            self._run.define_metric(f"{group}/step", hidden=True)
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/step")
        self._last = int(self._run.summary.get("train/step") or 0) if known else 0

    def log(self, row: MetricsRow, group: Group) -> None:
        """Record the numbers of a row that is not there yet."""
        if group == "validation" or row["step"] > self._last:
            values = {f"{group}/{name}": value for name, value in scalars(row).items()}
            self._run.log(values | {f"{group}/step": row["step"]})

    def log_video(self, tag: str, path: str, step: int) -> None:
        """Record the mp4."""
        self._run.log({f"validation/{tag}": self._wandb.Video(path, format="mp4"), "validation/step": step})

    def close(self, *, failed: bool) -> None:
        """Upload what is left and end the run."""
        self._run.finish(exit_code=int(failed))


def _name(config: LoggingConfig, out: str) -> str:
    return config.name or parent(out)[1] or config.project


def _texts(parameters: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested parameters by dotted name, cut to what MLflow takes."""
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _texts(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)[:500]


def _remembered(out: str) -> dict[str, str]:
    uri = join(out, "loggers.json")
    return dict(read_json(uri)) if exists(uri) else {}


def _remember(out: str, name: str, run: str) -> None:
    write_json(join(out, "loggers.json"), _remembered(out) | {name: run})


def _refused(name: str, service: str, error: Exception, remedy: str) -> UserError:
    return UserError(
        f"{service} does not take this run: {str(error).strip()}; {remedy}, or leave {name} out of training.logging.to"
    )
