"""DeepSpeed's steps against a plain torch loop on the same batches, and against themselves after a resume."""

import logging
from typing import Any

import pytest
import torch

from mimir_ray.training.state.pieces import TrainingProgress, read_progress, read_weights
from tests.training.runs import (
    BROKEN,
    COMBINATIONS,
    MIDDLE,
    PARTS,
    SHORT,
    STEPS,
    VARIANTS,
    BrokenBatches,
    Outcome,
    World,
    config,
    plain,
)

logger = logging.getLogger(__name__)

STAGES = (1, 2, 3)


@pytest.fixture(scope="module")
def expected(world: World) -> Outcome:
    return plain(world, config(), SHORT)


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert set(left) == set(right)
    return max(float((left[name] - right[name]).abs().max()) for name in right)


def assert_identical(found: Outcome, whole: Outcome) -> None:
    """Weights, moments and average, bit for bit."""
    for part in ("weights", "moments", "average"):
        left, right = getattr(found, part), getattr(whole, part)
        assert set(left) == set(right)
        assert left
        unequal = [name for name in right if not torch.equal(left[name], right[name])]
        assert not unequal, f"{part} differ: {unequal}"


def assert_close(found: Outcome, expected: Outcome) -> None:
    """Losses, norms, weights and average of a plain loop."""
    assert found.losses == pytest.approx(expected.losses, rel=2e-6)
    assert found.norms == pytest.approx(expected.norms, rel=2e-5)
    assert largest_difference(found.weights, expected.weights) < 2e-5
    assert largest_difference(found.average, expected.average) < 2e-5
    assert largest_difference(found.average, found.weights) > 1e-4


@pytest.mark.parametrize("name", [*(f"stage{stage} fp32" for stage in STAGES), *VARIANTS])
def test_several_workers_equal_a_plain_loop_on_the_whole_batch(
    name: str, runs: list[dict[str, Any]], expected: Outcome
) -> None:
    assert_close(runs[0][name], expected)
    assert runs[1][name].losses == runs[0][name].losses


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compiled", "filled up"])
def test_compiled_workers_and_uneven_shares_equal_a_plain_loop(
    name: str, resized: list[dict[str, Any]], expected: Outcome
) -> None:
    if name not in resized[0]:
        pytest.skip("torch compiles with g++, which is not here")
    assert_close(resized[0][name], expected)
    assert resized[1][name].losses == resized[0][name].losses


@pytest.mark.parametrize("name", [f"stage{stage} fp32" for stage in STAGES])
def test_branches_have_the_gradient_norms_of_a_plain_loop(
    name: str, runs: list[dict[str, Any]], expected: Outcome
) -> None:
    found = {key: value for key, value in runs[0][name].row.items() if key in expected.row}
    assert {"grad_theta", "grad_beta", "grad_stabilizer"} <= set(found)
    rms = {key for key in found if key.startswith("rms_")}  # of rank 0's share of the batch
    for key in set(expected.row) - rms:
        assert found[key] == pytest.approx(expected.row[key], rel=1e-4), key


@pytest.mark.parametrize(("stage", "precision"), COMBINATIONS)
def test_a_resume_is_bit_exact(stage: int, precision: str, runs: list[dict[str, Any]]) -> None:
    whole, resumed = runs[0][f"stage{stage} {precision}"], runs[0][f"stage{stage} {precision} resumed"]
    for step, (left, right) in enumerate(zip(whole.losses[MIDDLE:], resumed.losses, strict=True), start=MIDDLE + 1):
        logger.info("ZeRO %d %s step %d: loss %r uninterrupted, %r resumed", stage, precision, step, left, right)
    assert resumed.losses == whole.losses[MIDDLE:]
    assert_identical(resumed, whole)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_workers_then_one_then_two_under_another_stage_learn_the_same(
    stage: int, resized: list[dict[str, Any]], expected: Outcome
) -> None:
    first, alone, together = (resized[0][f"stage{stage} {part}"] for part in ("first", "alone", "together"))
    losses = first.losses + alone.losses + together.losses
    assert losses == pytest.approx(expected.losses, rel=0, abs=1e-5)
    assert largest_difference(together.weights, expected.weights) < 2e-5
    assert largest_difference(together.average, expected.average) < 2e-5


@pytest.mark.parametrize("part", PARTS)
def test_what_is_frozen_is_not_in_the_state_and_resumes_exactly(
    part: str, runs: list[dict[str, Any]], world: World
) -> None:
    made = config(**PARTS[part])
    found: Outcome = runs[0][part]
    expected = plain(world, made, SHORT)
    assert found.losses == pytest.approx(expected.losses, rel=2e-6)
    assert largest_difference(found.weights, expected.weights) < 2e-5
    assert all(name.startswith("token_fuser.") or ".lora_" in name for name in found.weights)
    assert any(".lora_B." in name and value.any() for name, value in found.weights.items()) == (part == "lora")
    whole, resumed = runs[0][f"{part} sharded"], runs[0][f"{part} resumed"]
    assert resumed.losses == whole.losses[MIDDLE:]
    assert_identical(resumed, whole)
    assert whole.losses == pytest.approx(expected.losses, rel=0.02)


def test_the_average_is_in_float32_whatever_the_weights_are(runs: list[dict[str, Any]]) -> None:
    average = runs[0]["stage2 bf16"].average["transformer.proj_out.weight"]
    assert average.dtype == torch.float32
    assert not torch.equal(average.bfloat16().float(), average)


@pytest.mark.parametrize("stage", [2, 3])
def test_what_is_loaded_is_saved_again_unchanged(stage: int, runs: list[dict[str, Any]], world: World) -> None:
    states = world.root / "states"
    assert runs[0][f"stage{stage} bf16 loaded"] == TrainingProgress(SHORT, SHORT)
    for kind in ("weight", "average", "exp_avg", "exp_avg_sq"):
        before, after = (read_weights(states / f"stage{stage} bf16{end}", kind) for end in ("", " again"))  # type: ignore[arg-type]
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_bf16_follows_fp32(runs: list[dict[str, Any]], expected: Outcome) -> None:
    for stage in STAGES:
        assert runs[0][f"stage{stage} bf16"].losses == pytest.approx(expected.losses, rel=0.02)


def test_the_loss_falls(runs: list[dict[str, Any]]) -> None:
    losses = runs[0]["whole"].losses
    assert len(losses) == STEPS
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_that_is_not_finite_is_left_out_and_counted(
    stage: int, runs: list[dict[str, Any]], world: World
) -> None:
    expected = plain(world, config(), SHORT, BrokenBatches)
    found: Outcome = runs[0][f"skipped{stage}"]
    left_out = expected.losses.count(None)
    assert 0 < left_out < SHORT
    assert [loss is None for loss in found.losses] == [loss is None for loss in expected.losses]
    assert found.row["skipped_steps"] == left_out
    assert largest_difference(found.weights, expected.weights) < 2e-5
    assert largest_difference(found.average, expected.average) < 2e-5
    assert read_progress(world.root / "states" / f"skipped{stage}") == TrainingProgress(SHORT, SHORT - left_out)


def test_a_run_that_left_steps_out_resumes_exactly(runs: list[dict[str, Any]], world: World) -> None:
    progress = read_progress(world.root / "states" / "skipped2 half")
    assert progress.updates < progress.step == SHORT - 1
    assert_identical(runs[0]["skipped2 resumed"], runs[0]["skipped2"])
    assert runs[0]["skipped2 resumed"].row["learning_rate"] == runs[0]["skipped2"].row["learning_rate"]


def test_too_many_steps_left_out_name_the_clip_on_every_worker(runs: list[dict[str, Any]]) -> None:
    for rank in runs:
        assert "1 steps were left out, more than training.max_skipped_steps=0" in rank["refused"]
        assert f"is not finite for clips {BROKEN}." in rank["refused"]
        assert "lower training.learning_rate" in rank["refused"]
