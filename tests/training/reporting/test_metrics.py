"""Rows of metrics in words."""

from typing import Any

from mimir_ray.training.reporting.metrics import row_text

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
