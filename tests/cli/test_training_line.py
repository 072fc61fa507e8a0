"""What a user sees of a training while it runs."""

import io
import logging
from typing import Any

import pytest
from rich.console import Console

from mimir_ray.cli import training_line
from mimir_ray.cli.training_line import TrainingLine
from mimir_ray.training.reporting.metrics import row_text

ROW: dict[str, Any] = {
    "step": 120,
    "loss": 0.12345,
    "samples_per_s": 56.78,
    "remaining_s": 3725.4,
    "mfu": 0.434,
    "data_wait": 0.02,
}


def test_a_row_in_words() -> None:
    assert row_text(ROW) == "loss 0.1235  56.8 samples/s  1:02:05 left  MFU 43%  data wait 2%"
    assert row_text(ROW | {"mfu": None, "remaining_s": 59.6}) == "loss 0.1235  56.8 samples/s  1:00 left  data wait 2%"
    assert row_text(ROW | {"loss": None}).startswith("loss -  ")


def test_a_terminal_has_one_line_that_is_gone_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(training_line, "status", Console(file=written, force_terminal=True, width=120))
    with TrainingLine(1000) as line:
        line(ROW)
        line._live[0].refresh()  # type: ignore[index]
        shown = written.getvalue()
    assert "120/1000" in shown
    assert "loss 0.1235" in shown
    assert written.getvalue().endswith("\x1b[2K"), "the line is erased"


def test_a_file_has_a_line_for_each_row(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(training_line, "status", Console(file=io.StringIO(), force_terminal=False))
    caplog.set_level(logging.INFO, "mimir_ray")
    with TrainingLine(1000) as line:
        line(ROW)
        line(ROW | {"step": 130})
    assert [message.split("  ")[0] for message in caplog.messages] == ["step 120/1000", "step 130/1000"]
