"""DeepSpeed's steps against a plain torch loop on the same batches, and against themselves after a resume."""

from typing import Any

import pytest
import torch

from tests.training.runs import BROKEN, SHORT, STEPS, Outcome, World, config, plain


@pytest.fixture(scope="module")
def expected(world: World) -> Outcome:
    return plain(world, config(), SHORT)


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert set(left) == set(right)
    return max(float((left[name] - right[name]).abs().max()) for name in right)


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3", "accumulated", "checkpointed"])
def test_two_workers_equal_a_plain_loop_on_the_whole_batch(
    name: str, runs: list[dict[str, Any]], expected: Outcome
) -> None:
    found: Outcome = runs[0][name]
    assert found.losses == pytest.approx(expected.losses, rel=2e-6)
    assert found.norms == pytest.approx(expected.norms, rel=2e-5)
    assert largest_difference(found.weights, expected.weights) < 2e-5
    assert largest_difference(found.average, expected.average) < 2e-5
    assert largest_difference(found.average, found.weights) > 1e-4
    assert runs[1][name].losses == found.losses


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3", "bf16"])
def test_a_resume_is_bit_exact(name: str, runs: list[dict[str, Any]]) -> None:
    uninterrupted, resumed = runs[0][name], runs[0][f"{name} resumed"]
    assert resumed.losses == uninterrupted.losses
    for weight, value in uninterrupted.weights.items():
        assert torch.equal(resumed.weights[weight], value), weight
        assert torch.equal(resumed.average[weight], uninterrupted.average[weight]), weight


def test_the_average_is_in_float32_whatever_the_weights_are(runs: list[dict[str, Any]]) -> None:
    found: Outcome = runs[0]["bf16"]
    weight, average = (part["transformer.proj_out.weight"] for part in (found.weights, found.average))
    assert (weight.dtype, average.dtype) == (torch.bfloat16, torch.float32)
    assert not torch.equal(average.bfloat16().float(), average)


def test_a_finished_run_that_is_loaded_still_has_its_average(runs: list[dict[str, Any]]) -> None:
    for stage in (2, 3):
        finished: Outcome = runs[0][f"stage{stage}"]
        loaded: Outcome = runs[0][f"stage{stage} loaded"]
        assert not loaded.losses[SHORT:]
        for name, value in finished.average.items():
            assert torch.equal(loaded.average[name], value), name


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
