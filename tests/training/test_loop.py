"""The steps of a run: how many of them may be left out."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mimir_ray.training import loop
from mimir_ray.training.engine import StepResult


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, without a process group."""

    def gather(everyone: list[Any], mine: Any) -> None:
        everyone[0] = mine

    group = SimpleNamespace(get_world_size=lambda: 1, get_rank=lambda: 0, all_gather_object=gather)
    monkeypatch.setattr(loop, "dist", group)


@pytest.mark.usefixtures("alone")
def test_as_many_steps_may_be_left_out_as_the_limit_says() -> None:
    result = StepResult(torch.tensor([1.0, float("nan")]), applied=False, telemetry={})
    interval = loop._Interval(steps=[(6, ("fine", "broken"), result)])
    interval._account_for_skipped(2, limit=2)
    with pytest.raises(loop.NonFiniteError, match=r"3 steps were left out, .*=2; .* of step 7 .* for clips broken\."):
        interval._account_for_skipped(3, limit=2)
