"""Rows of metrics, in words and in metrics.jsonl through an interruption."""

import json
from pathlib import Path
from typing import Any

from mimir_ray.training.reporting.metrics import MetricsFile, read_metrics, row_text

ROW: dict[str, Any] = {
    "step": 120,
    "loss": 0.12345,
    "samples_per_s": 56.78,
    "remaining_s": 7525.4,
    "mfu": 0.434,
    "data_wait": 0.02,
}


def test_a_row_in_words() -> None:
    assert row_text(ROW) == "loss 0.1235  56.8 samples/s  2 h 05 min left  MFU 43%  data wait 2%"
    assert row_text(ROW | {"mfu": None, "remaining_s": 59.6}) == "loss 0.1235  56.8 samples/s  60 s left  data wait 2%"
    assert row_text(ROW | {"loss": None}).startswith("loss -  ")


def row(step: int, loss: float = 1.0) -> dict[str, Any]:
    return {"step": step, "loss": loss}


def test_steps_that_are_made_again_are_told_once(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    first = MetricsFile(str(file), 0)
    for step in (1, 2, 3, 4):
        first.append(row(step))
    with file.open("a") as cut_short:
        cut_short.write(json.dumps(row(5))[:9])
    again = MetricsFile(str(file), 2)
    assert read_metrics(str(file)) == [row(1), row(2)]
    again.append(row(3, 0.5))
    assert read_metrics(str(file)) == [row(1), row(2), row(3, 0.5)]


def test_where_nothing_can_be_appended_rows_come_with_a_flush(tmp_path: Path) -> None:
    uri = f"memory://{tmp_path.name}/metrics.jsonl"
    first = MetricsFile(uri, 0)
    for step in (1, 2, 3):
        first.append(row(step))
    assert read_metrics(uri) == []
    first.flush()
    MetricsFile(uri, 2)
    assert read_metrics(uri) == [row(1), row(2)]
