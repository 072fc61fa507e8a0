"""Metrics and validation videos go to TensorBoard, MLflow and W&B, from the driver's process.

    with open_loggers(config.logging, out, parameters) as loggers:
        loggers.log(row)                            # every row of metrics.jsonl, in any thread
        loggers.log_validation(validation)          # every validation that is made

A run that goes on from a checkpoint brings steps again; none is shown twice.
"""

import importlib
import io
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

import pyarrow.fs as pafs

from mimir_ray.config import UserError
from mimir_ray.storage import absolute, filesystem, join, local_copy, upload
from mimir_ray.training.config import LoggingConfig
from mimir_ray.training.reporting.metrics import Group, MetricsRow, scalars
from mimir_ray.training.reporting.validation import Validation

logger = logging.getLogger(__name__)

UPLOAD_EVERY_S = 30.0
"""Event files grow on this machine; an object store gets them whole, this often and at the end."""
PREVIEW_PX = 256
"""Longer side of a video in TensorBoard, which keeps videos as GIF. The mp4 has every pixel."""


class MetricsLogger(Protocol):
    """Somewhere that metrics go."""

    def log(self, row: MetricsRow, group: Group) -> None:
        """Record the numbers of a row at its ``step``."""

    def log_video(self, tag: str, path: str, step: int) -> None:
        """Record an mp4 file of this machine."""

    def close(self, *, failed: bool) -> None:
        """Write what is left."""


def check_packages(config: LoggingConfig) -> None:
    """Raise UserError for a logger whose package is not installed."""
    for package, service in (("mlflow", "MLflow"), ("wandb", "W&B")):
        if package not in config.to:
            continue
        try:
            importlib.import_module(package)
        except ImportError:
            raise UserError(
                f"training.logging.to names {package} and that package is not installed; run `pip install "
                f"'mimir-ray[{package}]'`, or leave {service} out"
            ) from None


def open_loggers(config: LoggingConfig, out: str, parameters: Mapping[str, Any]) -> "Loggers":
    """The loggers of a run whose folder is ``out``.

    Args:
        parameters: what the run was started with, shown beside its metrics.

    Raises:
        UserError: a package that is not installed, or a service that does not take the run.
    """
    from mimir_ray.training.reporting.services import MlflowLogger, WandbLogger

    check_packages(config)
    kinds: dict[str, Callable[[LoggingConfig, str, Mapping[str, Any]], MetricsLogger]] = {
        "tensorboard": TensorBoardLogger,
        "mlflow": MlflowLogger,
        "wandb": WandbLogger,
    }
    opened: dict[str, MetricsLogger] = {}
    try:
        for name in config.to:
            opened[name] = kinds[name](config, absolute(out), parameters)
    except BaseException:
        Loggers(opened).close(failed=True)
        raise
    return Loggers(opened)


class Loggers:
    """Several loggers as one. One that fails is dropped with a warning: no training ends for want of a chart."""

    def __init__(self, loggers: Mapping[str, MetricsLogger]) -> None:
        self._loggers = dict(loggers)
        self._last = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)

    def log(self, row: MetricsRow) -> None:
        """Record a row of metrics; one that came before, because workers were started again, is left out."""
        with self._lock:
            if row["step"] > self._last:
                self._last = row["step"]
                self._each(lambda each: each.log(row, "train"))

    def log_validation(self, validation: Validation) -> None:
        """Record score and videos of a validation; one without a video is left out."""
        if not validation.made:
            return
        row = {
            "step": validation.step,
            "score": validation.score,
            "videos": validation.made,
            "seconds": validation.seconds,
        }
        with self._lock:
            self._each(lambda each: each.log(row, "validation"))
            for index, video in enumerate(validation.videos):
                if video.path is not None:
                    tag = f"{index:02d} {video.prompt[:60]}"
                    with local_copy(join(validation.folder, video.path)) as path:
                        self._each(partial(_log_video, tag=tag, path=path, step=validation.step))

    def close(self, *, failed: bool = False) -> None:
        """Write what is left."""
        with self._lock:
            self._each(lambda each: each.close(failed=failed))
            self._loggers.clear()

    def _each(self, call: Callable[[MetricsLogger], None]) -> None:
        for name, each in list(self._loggers.items()):
            try:
                call(each)
            except Exception as error:
                logger.warning("logging to %s stopped: %s: %s", name, type(error).__name__, error)
                del self._loggers[name]


def _log_video(each: MetricsLogger, *, tag: str, path: str, step: int) -> None:
    each.log_video(tag, path, step)


class TensorBoardLogger:
    """Event files ``out/tensorboard/train`` and ``out/tensorboard/validation``."""

    def __init__(self, config: LoggingConfig, out: str, parameters: Mapping[str, Any]) -> None:
        self._uri = join(out, "tensorboard")
        system, path = filesystem(self._uri)
        self._staging: tempfile.TemporaryDirectory[str] | None = None
        if not isinstance(system, pafs.LocalFileSystem):
            self._staging = tempfile.TemporaryDirectory(prefix="mimir-tensorboard-")
            path = self._staging.name
        self._folder = path
        self._writers: dict[Group, Any] = {}
        self._uploaded_s = time.monotonic()

    def log(self, row: MetricsRow, group: Group) -> None:
        """Record the numbers of a row."""
        writer = self._writer(group, row["step"])
        for name, value in scalars(row).items():
            writer.add_scalar(name, value, row["step"])
        self._upload(UPLOAD_EVERY_S)

    def log_video(self, tag: str, path: str, step: int) -> None:
        """Record a video, made smaller, as TensorBoard shows it: a GIF among the images."""
        from tensorboardX.proto.summary_pb2 import Summary

        data, width, height = _gif(path)
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        self._writer("validation", step).file_writer.add_summary(summary, step)

    def close(self, *, failed: bool) -> None:
        """Write, and upload, what is left."""
        for writer in self._writers.values():
            writer.close()
        self._upload(0)
        if self._staging is not None:
            self._staging.cleanup()

    def _writer(self, group: Group, step: int) -> Any:
        """The group's event file. The first row after a restart hides what earlier files have from its step on."""
        from tensorboardX import SummaryWriter

        if group not in self._writers:
            folder = os.path.join(self._folder, group)
            purge = step if group == "train" else None  # a validation is made once, whatever training does again
            self._writers[group] = SummaryWriter(folder, purge_step=purge, flush_secs=5)
        return self._writers[group]

    def _upload(self, after_s: float) -> None:
        if self._staging is None or time.monotonic() - self._uploaded_s < after_s:
            return
        for group in self._writers:
            for name in os.listdir(os.path.join(self._folder, group)):
                upload(os.path.join(self._folder, group, name), join(self._uri, group, name))
        self._uploaded_s = time.monotonic()


def _gif(path: str) -> tuple[bytes, int, int]:
    """A video as GIF, with its width and height."""
    from PIL import Image

    from mimir_ray.video import probe, read_frames

    info = probe(path)
    frames = read_frames(path, range(info.frames)).frames
    images = [Image.fromarray(frame) for frame in frames]
    for image in images:
        image.thumbnail((PREVIEW_PX, PREVIEW_PX))
    stream = io.BytesIO()
    duration_ms = round(1000 / info.fps)
    images[0].save(stream, "GIF", save_all=True, append_images=images[1:], duration=duration_ms, loop=0)
    return stream.getvalue(), images[0].width, images[0].height
