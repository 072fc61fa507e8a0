"""How a verb ends: 0 done, 1 failed, 2 the user's mistake, 130 stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from mimir_ray.cli.verb import register
from mimir_ray.config import UserError
from tests.cli.command import ROOT, mimir, run_python


def verb_that_raises(error: BaseException | None) -> Result:
    app = typer.Typer()

    def work() -> None:
        if error is not None:
            raise error

    register(app, "work", examples=["mimir work"])(work)
    return CliRunner().invoke(app, [])


def test_done() -> None:
    assert verb_that_raises(None).exit_code == 0


def test_a_crash_is_one_and_keeps_its_traceback() -> None:
    result = verb_that_raises(RuntimeError("disk on fire"))
    assert result.exit_code == 1
    assert isinstance(result.exception, RuntimeError)


def test_a_mistake_is_two_and_its_message() -> None:
    result = verb_that_raises(UserError("steps is 0; set it to 1 or more"))
    assert result.exit_code == 2
    assert result.stderr.strip() == "mimir: steps is 0; set it to 1 or more"


def test_a_mistake_raised_from_another_error_is_still_one() -> None:
    error = UserError("no cluster there")
    error.__cause__ = ConnectionError("refused")
    assert verb_that_raises(error).exit_code == 2


def test_a_mistake_found_by_a_ray_worker_reads_the_same() -> None:
    from ray.exceptions import RayTaskError

    mistake = UserError("steps is 0; set it to 1 or more")
    arrived = RayTaskError("work", "Traceback of the worker", mistake).as_instanceof_cause()
    assert isinstance(arrived, UserError)
    result = verb_that_raises(arrived)
    assert result.exit_code == 2
    assert result.stderr.strip() == "mimir: steps is 0; set it to 1 or more"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "--data", "/nowhere", "--out", "o"], ["--data '/nowhere' does not exist", "mimir precompute"]),
        (["curate", "/nowhere", "--out", "o"], ["'/nowhere' does not exist"]),
        (["curate", "./report", "--out", "o"], ["the source './report' does not exist"]),
        (["curate", "report", "/nowhere"], ["DIR '/nowhere' does not exist", "mimir curate SOURCE... --out DIR"]),
        (["curate", "report", "tests"], ["tests holds no finished curation", "mimir curate SOURCE... --out tests"]),
        (["train", "--data", ".", "--out", "o", "--recipe", "shape"], ["no recipe 'shape'", "mimir_2b"]),
        (["train", "--data", ".", "--out", "o", "--set", "training.lr=1"], ["training.lr", "learning_rate"]),
        (["train", "--data", ".", "--out", "o", "--set", "training.steps=many"], ["training.steps", "integer"]),
        (["train", "--data", ".", "--out", "o", "--set", "model.base=/nowhere"], ["no model at '/nowhere'"]),
        (["generate", "a ball", "--out", "x.mp4", "--model", "/nowhere"], ["no model at '/nowhere'"]),
        (["generate", "a ball", "--out", "x.mp4", "--recipe", "mimir_5b"], ["--recipe mimir_5b needs --model"]),
        (["serve", "--recipe", "mimir_2b"], ["--recipe mimir_2b needs --model", "zai-org/CogVideoX-2b"]),
        (["serve", "--set", "model.base=owner/other"], ["needs --model", "owner/other"]),
        (["generate", "a ball", "--out", "x.mp4", "--set", "model.base=owner/other"], ["needs --model", "owner/other"]),
        (["serve", "--model", "/nowhere"], ["no model at '/nowhere'"]),
        (["serve", "--set", "generation.num_frames=17"], ["set precompute.num_frames=17 or generation.num_frames=9"]),
        (["serve", "--set", "generation.num_inference_steps=500"], ["limits.max_inference_steps", "500"]),
        (["generate", "a ball", "--out", "x.mp4", "--steps", "0"], ["generation.num_inference_steps", "0"]),
        (["quickstart", "--videos", "/nowhere"], ["--videos '/nowhere' does not exist"]),
        (["init", "--out", "mimir_ray"], ["not an empty directory"]),
    ],
    ids=lambda value: " ".join(value[:1]),
)
def test_mistakes_are_found_before_anything_starts(
    arguments: list[str], named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    result = mimir(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    for text in named:
        assert text in result.stderr


def test_a_true_process_reports_a_mistake_without_a_traceback(tmp_path: Path) -> None:
    run = run_python("-m", "jobs.train", "--data", str(tmp_path), "--out", "o", "--set", "trainig.steps=1")
    assert run.returncode == 2
    assert run.stdout == ""
    assert "no field trainig; did you mean training" in run.stderr
    assert "Traceback" not in run.stderr


def test_unknown_options_are_mistakes() -> None:
    assert mimir("train", "--date", "x").exit_code == 2
    assert mimir("trane").exit_code == 2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("handler", ["ours", "one that leaves", "a local Ray's"])
def test_a_stopped_verb_says_how_to_continue(signum: signal.Signals, handler: str) -> None:
    before = {
        "ours": "",
        "one that leaves": "signal.signal(signal.SIGINT, leave); signal.signal(signal.SIGTERM, leave)",
        "a local Ray's": "from mimir_ray.cli.ray_cluster import connect; connect()",
    }
    script = f"""
import signal, sys, time, typer
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born ignoring it
from mimir_ray.cli.verb import register

def leave(signum, frame):
    sys.exit(0)

def work() -> None:
    {before[handler]}
    print("working", flush=True)
    time.sleep(60)

app = typer.Typer()
register(app, "work", examples=["mimir work"], continues=True)(work)
app()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signum)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to continue" in errors
    assert "Traceback" not in errors
    assert "received at" not in errors, "Ray's own handler prints a stack and aborts"
