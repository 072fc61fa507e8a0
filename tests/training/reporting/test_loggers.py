"""Loggers, read back: TensorBoard's event files always, MLflow and W&B where they are installed."""

import io
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mimir_ray.config import UserError
from mimir_ray.storage import list_files, read_bytes, read_json
from mimir_ray.training.config import LoggingConfig
from mimir_ray.training.reporting.loggers import Loggers, open_loggers
from mimir_ray.training.reporting.metrics import scalars
from mimir_ray.training.reporting.validation import Validation, ValidationVideo
from mimir_ray.video import write_mp4

BINS = [0.5, None, 0.25]


def row(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": 1 / step, "mfu": None, "loss_by_timestep": BINS, **more}


@pytest.fixture
def result(tmp_path: Path) -> Validation:
    """A validation of one prompt with a video, and one without."""
    path = tmp_path / "00.mp4"
    frames = np.zeros((6, 160, 320, 3), np.uint8)
    frames[3:] = 200
    write_mp4(path, frames, 4.0)
    videos = (
        ValidationVideo("a red ball", 3, path.name, 0.5, seconds=1.0),
        ValidationVideo("nothing", 4, reason="ValueError: no", seconds=1.0),
    )
    return Validation(4, str(tmp_path), videos)


def events(folder: str) -> Iterator[Any]:
    """Every event of every event file at or below a location, oldest file first."""
    from tensorboardX.proto.event_pb2 import Event

    for uri in list_files(folder):
        data, at = read_bytes(uri), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16


def shown(folder: str) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag, as TensorBoard shows them: a session's start hides what older files have from there."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        if event.HasField("session_log"):
            for points in found.values():
                points[:] = [point for point in points if point[0] < event.step]
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_numbers_of_a_row() -> None:
    nested = {"step": 3, "loss": 1, "none": None, "text": "x", "bins": [0.5, None, 2], "norms": {"a": 1.5, "b": [2.5]}}
    assert scalars(nested) == {"loss": 1.0, "bins/0": 0.5, "bins/2": 2.0, "norms/a": 1.5, "norms/b/0": 2.5}


def test_tensorboard_has_every_number_and_video_once(tmp_path: Path, result: Validation) -> None:
    out = tmp_path / "run"
    with open_loggers(LoggingConfig(), str(out), {}) as loggers:
        for step in (2, 4, 2, 4, 6):  # workers were started again after step 4
            loggers.log(row(step))
        loggers.log_validation(result)
        loggers.log_validation(Validation(6, str(tmp_path), (ValidationVideo("nothing", 4, reason="no"),)))
    train = shown(str(out / "tensorboard" / "train"))
    assert train["loss"] == [(2, 0.5), (4, 0.25), (6, pytest.approx(1 / 6))]
    assert train["loss_by_timestep/2"] == [(2, 0.25), (4, 0.25), (6, 0.25)]
    assert set(train) == {"loss", "loss_by_timestep/0", "loss_by_timestep/2"}
    validation = str(out / "tensorboard" / "validation")
    assert shown(validation)["score"] == [(4, 0.5)]
    videos = [
        (event.step, value.tag, value.image)
        for event in events(validation)
        for value in event.summary.value
        if value.HasField("image")
    ]
    assert [(step, tag) for step, tag, _ in videos] == [(4, "00 a red ball")]
    gif = Image.open(io.BytesIO(videos[0][2].encoded_image_string))
    assert (gif.format, gif.size, gif.n_frames) == ("GIF", (256, 128), 2), "equal frames are one in a GIF"
    assert (videos[0][2].width, videos[0][2].height) == (256, 128)


def test_a_driver_that_starts_again_hides_what_it_does_again(tmp_path: Path, result: Validation) -> None:
    for steps in ((2, 4, 6), (4, 6, 8)):
        with open_loggers(LoggingConfig(), str(tmp_path), {}) as loggers:
            if steps[0] == 2:
                loggers.log_validation(result)
            for step in steps:
                loggers.log(row(step))
        for file in (tmp_path / "tensorboard" / "train").iterdir():
            if not file.name.startswith("0"):  # names have whole seconds; the two runs of this test have the same
                file.rename(file.with_name(f"0{steps[0]}-{file.name}"))
    points = shown(str(tmp_path / "tensorboard" / "train"))["loss"]
    assert [step for step, _ in points] == [2, 4, 6, 8]
    assert shown(str(tmp_path / "tensorboard" / "validation"))["score"] == [(4, 0.5)]


def test_an_object_store_gets_the_files(result: Validation) -> None:
    out = "memory://loggers/run"
    with open_loggers(LoggingConfig(), out, {}) as loggers:
        loggers.log(row(2))
        loggers.log_validation(result)
    assert shown(f"{out}/tensorboard/train")["loss"] == [(2, 0.5)]
    assert shown(f"{out}/tensorboard/validation")["score"] == [(4, 0.5)]


def test_a_logger_that_fails_is_dropped_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    class Steps:
        def __init__(self, limit: int) -> None:
            self.limit, self.seen, self.failed = limit, [], False

        def log(self, row: dict[str, Any], group: str) -> None:
            if row["step"] > self.limit:
                raise ConnectionError("gone")
            self.seen.append(row["step"])

        def log_video(self, tag: str, path: str, step: int) -> None: ...

        def close(self, *, failed: bool) -> None:
            self.failed = failed

    short, long = Steps(1), Steps(9)
    loggers = Loggers({"short": short, "long": long})
    for step in (1, 2, 3):
        loggers.log(row(step))
    loggers.close(failed=True)
    assert (short.seen, long.seen, long.failed) == ([1], [1, 2, 3], True)
    assert caplog.messages == ["logging to short stopped: ConnectionError: gone"]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_package_that_is_not_there_is_told_before_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(
        UserError, match=rf"{name} and that package is not installed; run `pip install 'mimir-ray\[{name}\]'`"
    ):
        open_loggers(LoggingConfig(to=("tensorboard", name)), str(tmp_path), {})


def test_mlflow_has_one_run_through_a_restart(
    tmp_path: Path, result: Validation, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = LoggingConfig(to=("mlflow",), project="tests")
    out = str(tmp_path / "first")
    loggers = open_loggers(config, out, {"training": {"steps": 8}, "model": "m"})
    for step in (2, 4):
        loggers.log(row(step))
    loggers.close(failed=True)
    with open_loggers(config, out, {"training": {"steps": 8}, "model": "m"}) as loggers:
        for step in (4, 6):
            loggers.log(row(step))
        loggers.log_validation(result)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.info.run_id == read_json(f"{out}/loggers.json")["mlflow"]
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params == {"training.steps": "8", "model": "m"}
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [2, 4, 6]
    assert run.data.metrics["train/loss_by_timestep/2"] == 0.25
    assert run.data.metrics["validation/score"] == 0.5
    (video,) = client.list_artifacts(run.info.run_id, "validation/step-00000004/00 a red ball")
    assert video.path.endswith(".mp4")


def test_mlflow_without_a_server_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://x")
    with pytest.raises(
        UserError, match=r"MLflow does not take this run: .* set MLFLOW_TRACKING_URI to a tracking server"
    ):
        open_loggers(LoggingConfig(to=("mlflow",)), str(tmp_path), {})


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: a LevelDB log in blocks of 32 KiB, after a header of 7 bytes."""
    at, record = 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_wandb_writes_offline(tmp_path: Path, result: Validation, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = str(tmp_path / "first")
    with open_loggers(LoggingConfig(to=("wandb",)), out, {"steps": 8}) as loggers:
        for step in (2, 4):
            loggers.log(row(step))
        loggers.log_validation(result)
    (file,) = Path(out).rglob("*.wandb")
    assert read_json(f"{out}/loggers.json")["wandb"] in file.name
    until = time.monotonic() + 30  # W&B writes in a process of its own
    records: list[dict[str, str]] = []
    while len(records) < 3 and time.monotonic() < until:
        found = map(wandb_internal_pb2.Record.FromString, wandb_records(file.read_bytes()))
        records = [
            {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            for record in found
            if record.HasField("history")
        ]
    assert [record["train/step"] for record in records if "train/step" in record] == ["2", "4"]
    assert [record["train/loss"] for record in records if "train/loss" in record] == ["0.5", "0.25"]
    assert [record["validation/score"] for record in records if "validation/score" in record] == ["0.5"]
    (video,) = Path(out).rglob("*.mp4")
    assert video.stat().st_size > 0
