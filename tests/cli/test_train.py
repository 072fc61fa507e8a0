"""What a user sees of `mimir train` while it runs."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from mimir_ray import console
from tests.cli.command import mimir

ROW: dict[str, Any] = {
    "step": 120,
    "loss": 0.12345,
    "samples_per_s": 56.78,
    "remaining_s": 59,
    "mfu": None,
    "data_wait": 0.02,
}


@pytest.mark.parametrize("is_terminal", [True, False])
def test_rows_are_shown_in_one_line_on_a_terminal_and_told_by_the_training_elsewhere(
    is_terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "status", Console(file=written, force_terminal=is_terminal, width=120))
    given: dict[str, Any] = {}

    def train(*_: Any, on_metrics: Any, **__: Any) -> Any:
        given["on_metrics"] = on_metrics
        if on_metrics is not None:
            on_metrics(ROW)
        return SimpleNamespace(
            export="there", steps=1000, clips=3, first_loss=2.0, last_loss=1.0, already_finished=False
        )

    monkeypatch.setattr("mimir_ray.training.train", train)
    monkeypatch.setattr("mimir_ray.cli.ray_cluster.connect", lambda _: None)
    result = mimir("train", "--data", str(tmp_path), "--out", str(tmp_path / "o"), "--set", "training.steps=1000")
    assert result.exit_code == 0, result.output
    assert result.stdout == "there: 1000 steps on 3 clips, loss 2.0000 -> 1.0000\n"
    assert (given["on_metrics"] is not None) is is_terminal, "a training that nobody watches logs its rows"
    assert ("120/1000 steps  loss 0.1235  56.8 samples/s  59 s left" in written.getvalue()) is is_terminal
