"""The whole stage on Ray Train: killed workers, a run that failed and goes on, a finished one, and its export."""

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray.train
import torch

from mimir_ray.config import UserError
from mimir_ray.model.config import FuserConfig, ModelConfig
from mimir_ray.model.flops import training_flops
from mimir_ray.model.pipeline import MimirPipeline
from mimir_ray.storage import read_json
from mimir_ray.training import TrainingSummary, train
from mimir_ray.training.reporting.metrics import read_metrics
from tests.tiny import ONE_POINT_FIVE, frames_of, tiny_base
from tests.training.runs import COMBINATIONS, MIDDLE, SHORT, STEPS, WORLD, Outcome, World, config, outcome
from tests.training.tables import write_tables
from tests.training.test_engine import assert_identical

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(900)]


def kill_a_worker() -> None:
    """SIGKILL one training worker of this process's own Ray."""
    for process in psutil.Process().children(recursive=True):
        if "RayTrainWorker" in "".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
            return


class KillOnce:
    """Kills a worker when the first row of `at_step` or later has arrived and Ray Train knows of a checkpoint."""

    def __init__(self, out: str, at_step: int) -> None:
        self.known = Path(out, "checkpoints", "checkpoint_manager_snapshot.json")
        self.at_step = at_step
        self.done = False

    def __call__(self, row: dict[str, Any]) -> None:
        if not self.done and row["step"] >= self.at_step:
            self.done = True
            while not self.known.exists():  # files travel while training goes on
                time.sleep(0.02)
            kill_a_worker()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("run") / "train")


@pytest.fixture(scope="module")
def summary(world: World, out: str, ray_session: None) -> TrainingSummary:
    """A run that failed (a worker was killed, no restart allowed) and went on when it was called again."""
    made = config(max_failures=0)
    kill = KillOnce(out, at_step=6)
    with pytest.raises(ray.train.TrainingFailedError):
        train(world.data, out, world.model, made, on_metrics=kill)
    assert kill.done
    assert not Path(out, "export").exists()
    return train(world.data, out, world.model, made)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "precision"), COMBINATIONS)
def test_a_killed_worker_changes_nothing_under_any_stage(
    stage: int, precision: str, world: World, tmp_path: Path, ray_session: None, uninterrupted: dict[str, Any]
) -> None:
    made = config(zero_stage=stage, precision=precision, max_failures=1, keep_checkpoints=STEPS)
    out = str(tmp_path / "killed")
    kill = KillOnce(out, at_step=MIDDLE + 1)
    assert train(world.data, out, world.model, made, on_metrics=kill).resumed_from >= MIDDLE
    assert kill.done
    whole: Outcome = uninterrupted[f"stage{stage} {precision}"]
    rows = read_metrics(f"{out}/metrics.jsonl")[:SHORT]
    found = outcome(rows, Path(out, "checkpoints", f"step-{SHORT:08d}"), made)
    for step, (left, right) in enumerate(zip(whole.losses, found.losses, strict=True), start=1):
        logger.info("ZeRO %d %s step %d: %r uninterrupted, %r killed", stage, precision, step, left, right)
    assert found.losses == whole.losses
    assert_identical(found, whole)


@pytest.mark.slow
def test_killed_and_continued_equals_uninterrupted(
    summary: TrainingSummary, out: str, uninterrupted: dict[str, Any]
) -> None:
    rows = read_metrics(f"{out}/metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["loss"] for row in rows] == uninterrupted["whole"].losses
    assert 0 < summary.resumed_from < STEPS
    assert summary.steps == STEPS
    assert summary.first_loss == rows[0]["loss"] > summary.last_loss


@pytest.mark.slow
def test_rows_tell_how_the_fuser_does(summary: TrainingSummary, out: str) -> None:
    row = read_metrics(f"{out}/metrics.jsonl")[-1]
    assert row["z_beta_norm"] > 0
    assert {"gradient_norm", "samples_per_s", "remaining_s", "data_wait", "rms_beta_over_theta"} <= set(row)


@pytest.mark.slow
def test_rows_tell_the_pace_and_where_the_loss_is(summary: TrainingSummary, out: str) -> None:
    transformer = MimirPipeline.from_pretrained(summary.export).transformer
    for row in read_metrics(f"{out}/metrics.jsonl"):
        flops = training_flops(transformer.config, (3, 16, 8, 8), transformer.config.max_text_seq_length)
        assert row["tflops_per_worker"] == pytest.approx(flops * row["samples_per_s"] / WORLD / 1e12)
        assert row["mfu"] is None, "a CPU's peak is not known"
        assert row["memory_gib"] > 0
        seen = [loss for loss in row["loss_by_timestep"] if loss is not None]
        assert 1 <= len(seen) <= 8, "a step has eight samples"
        assert min(seen) <= row["loss"] <= max(seen)


@pytest.mark.slow
def test_the_export_holds_the_average_of_the_weights_and_generates(
    summary: TrainingSummary, uninterrupted: dict[str, Any]
) -> None:
    pipeline = MimirPipeline.from_pretrained(summary.export)
    for name, value in uninterrupted["whole"].average.items():
        component, _, weight = name.partition(".")
        assert torch.equal(getattr(pipeline, component).state_dict()[weight].flatten(), value), name
    frames = frames_of(pipeline, "a red circle", num_inference_steps=2)
    assert frames.shape == (1, 9, 64, 64, 3)
    account = read_json(f"{summary.export}/training.json")
    assert set(account["tables"]) == {"latents", "t5_tokens", "llm_tokens"}
    assert len(account["fingerprint"]) == 16


@pytest.mark.slow
def test_only_the_last_checkpoints_are_kept(summary: TrainingSummary, out: str) -> None:
    kept = sorted(path.name for path in Path(out, "checkpoints").glob("step-*"))
    assert kept == [f"step-{step:08d}" for step in (STEPS - 4, STEPS)]


@pytest.mark.slow
def test_a_finished_run_does_nothing(summary: TrainingSummary, world: World, out: str) -> None:
    again = train(world.data, out, world.model, config(max_failures=0))
    assert again.already_finished
    assert again.last_loss == summary.last_loss


@pytest.mark.slow
def test_more_steps_go_on_from_where_the_run_ended(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, made = str(tmp_path / "run"), config(steps=4, workers=1, schedule="constant")
    train(world.data, out, world.model, made)
    first = read_metrics(f"{out}/metrics.jsonl")
    with caplog.at_level(logging.INFO, "mimir_ray"):
        summary = train(world.data, out, world.model, made.model_copy(update={"steps": 8}))
    assert (summary.resumed_from, summary.already_finished) == (4, False)
    assert f"{out} goes on from step 4 of 8, with weights, moments and the order" in caplog.text
    assert "it was to have 4 steps and has 8 now: the learning rate is that of the longer schedule" in caplog.text
    rows = read_metrics(f"{out}/metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert rows[:4] == first
    whole = str(tmp_path / "whole")
    train(world.data, whole, world.model, made.model_copy(update={"steps": 8}))
    assert [row["loss"] for row in rows] == [row["loss"] for row in read_metrics(f"{whole}/metrics.jsonl")]


@pytest.mark.slow
def test_another_run_is_not_mixed_in(summary: TrainingSummary, world: World, out: str) -> None:
    with pytest.raises(UserError, match=r"training.learning_rate was 0.001 and is now 0.01.* Choose another --out"):
        train(world.data, out, world.model, config(max_failures=1, learning_rate=0.01))


def test_more_workers_than_cpus_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training needs 8 CPUs .* has 4 CPUs and 0 GPUs: set training.workers=4,"):
        train(world.data, str(tmp_path), world.model, config(workers=8))


@pytest.mark.slow
def test_the_t5_only_control_trains_through_the_same_code(tmp_path: Path) -> None:
    """On CogVideoX 1.5, with the empty prompt as its null condition."""
    data = write_tables(tmp_path / "data", names=("latents", "t5_tokens"))
    path = tiny_base(tmp_path / "base", rotary=True, **ONE_POINT_FIVE)
    control = ModelConfig(base=str(path), fuser=FuserConfig.baseline())
    made = config(workers=1, steps=6, checkpoint_every=6, ema_decay=0)
    summary = train(data, str(tmp_path / "out"), control, made)
    pipeline = MimirPipeline.from_pretrained(summary.export)
    assert pipeline.llm is None
    base = MimirPipeline.from_base(path)
    assert torch.equal(pipeline.token_fuser.null_token, base.token_fuser.null_token)
    assert base.token_fuser.null_token.abs().min() > 0
    assert frames_of(pipeline, "a red ball", num_inference_steps=2).shape == (1, 9, 64, 64, 3)
    changed = (pipeline.transformer.proj_out.weight - base.transformer.proj_out.weight).abs().max()
    assert 1e-4 < changed < 1e-1


def test_a_mistake_found_by_the_workers_is_the_users(world: World, tmp_path: Path) -> None:
    model = world.model.model_copy(update={"fuser": FuserConfig(text_length=20)})
    with pytest.raises(UserError, match=r"holds 24 tokens a caption and the token fuser reads 20"):
        train(world.data, str(tmp_path / "out"), model, config(workers=1))
