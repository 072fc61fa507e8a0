"""DeepSpeed's steps against a plain torch loop on the same batches, and against themselves after a resume."""

from typing import Any

import pytest
import torch

from tests.training.runs import BROKEN, SHORT, STEPS, Outcome, World, config, plain


@pytest.fixture(scope="module")
def expected(world: World) -> Outcome:
    return plain(world, config(), SHORT)


def largest_difference(left: Outcome, right: Outcome) -> float:
    return max(float((left.weights[name] - right.weights[name]).abs().max()) for name in right.weights)


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3", "accumulated", "checkpointed"])
def test_two_workers_equal_a_plain_loop_on_the_whole_batch(
    name: str, runs: list[dict[str, Any]], expected: Outcome
) -> None:
    found: Outcome = runs[0][name]
    assert found.losses == pytest.approx(expected.losses, rel=2e-6)
    assert found.norms == pytest.approx(expected.norms, rel=2e-5)
    assert set(found.weights) == set(expected.weights)
    assert largest_difference(found, expected) < 2e-5
    assert runs[1][name].losses == found.losses


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3", "bf16"])
def test_a_resume_is_bit_exact(name: str, runs: list[dict[str, Any]]) -> None:
    uninterrupted, resumed = runs[0][name], runs[0][f"{name} resumed"]
    assert resumed.losses == uninterrupted.losses
    for weight, value in uninterrupted.weights.items():
        assert torch.equal(resumed.weights[weight], value), weight


def test_bf16_follows_fp32(runs: list[dict[str, Any]], expected: Outcome) -> None:
    assert runs[0]["bf16"].losses == pytest.approx(expected.losses, rel=0.02)


def test_the_loss_falls(runs: list[dict[str, Any]]) -> None:
    losses = runs[0]["whole"].losses
    assert len(losses) == STEPS
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])


def test_a_loss_that_is_not_finite_names_its_clip_on_every_worker(runs: list[dict[str, Any]]) -> None:
    for rank in runs:
        assert f"is not finite for clips {BROKEN}." in rank["refused"]
        assert "lower training.learning_rate" in rank["refused"]
