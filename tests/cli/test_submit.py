"""Sending a verb to a cluster."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mimir_ray.cli import submit
from tests.cli.command import ROOT, mimir, run_python
from tests.cli.job_client import FakeClient

TRAIN = ("submit", "train", "--", "--data", "s3://b/my data", "--out", "s3://b/train")


def test_the_job_is_the_verbs_module_with_the_same_arguments(client: FakeClient) -> None:
    result = mimir(*TRAIN)
    assert result.exit_code == 0, result.output
    assert client.submitted["entrypoint"] == "python -m jobs.train --data 's3://b/my data' --out s3://b/train"
    assert client.submitted["runtime_env"]["working_dir"] == str(ROOT)
    assert result.stdout == "step 1\nstep 2\n"
    assert "ray job stop raysubmit_1" in result.stderr


def test_without_waiting_only_the_id_is_printed(client: FakeClient) -> None:
    result = mimir("submit", "--no-wait", *TRAIN[1:])
    assert (result.exit_code, result.stdout) == (0, "raysubmit_1\n")


@pytest.mark.parametrize(
    ("status", "code", "ends"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", 1, 1),
        ("FAILED", None, 1),
        ("FAILED", -9, 1),
        ("STOPPED", 0, 1),
    ],
)
def test_the_drivers_exit_code_is_ours(client: FakeClient, status: str, code: int | None, ends: int) -> None:
    client.details = SimpleNamespace(status=status, driver_exit_code=code, message="why")
    result = mimir(*TRAIN)
    assert result.exit_code == ends
    assert ("why" in result.stderr) == (ends != 0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["submit", "fly"], ["no job 'fly'", "curate, precompute, train, generate"]),
        (["submit", "train", "--", "--dat", "x"], ["--dat"]),
        (["submit", "train", "--", "--out", "x"], ["--data"]),
        (["submit", "train", "--", "--data", "d", "--out", "o", "--recipe", "x"], ["no recipe 'x'"]),
        (["submit", "train", "--", "--data", "d", "--out", "o", "--set", "training.stesp=1"], ["did you mean steps"]),
        (["submit", "train", "--working-dir", "/", "--", "--data", "d", "--out", "o"], ["no jobs/train.py"]),
    ],
    ids=lambda value: " ".join(value[-1:]),
)
def test_what_the_job_would_refuse_is_refused_here(client: FakeClient, arguments: list[str], named: list[str]) -> None:
    result = mimir(*arguments)
    assert result.exit_code == 2, result.output
    assert not client.submitted
    for text in named:
        assert text in result.stderr


def test_a_cluster_that_takes_no_jobs(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**job: Any) -> str:
        raise RuntimeError("Request failed with status code 500: No available agent to submit job")

    monkeypatch.setattr(client, "submit_job", refuse)
    monkeypatch.setattr(submit, "STARTING_CLUSTER_S", -1.0)
    result = mimir(*TRAIN)
    assert result.exit_code == 2, result.output
    assert "--dashboard-agent-listen-port" in result.stderr


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "127.0.0.1:8265", "ray://127.0.0.1:10001"])
def test_nobody_at_the_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = mimir("submit", "train", "--address", address, "--", "--data", "d", "--out", "o")
    assert result.exit_code == 2, result.output
    assert address in result.stderr
    assert "Traceback" not in result.output


@pytest.fixture
def job_server(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The dashboard of a Ray of its own, with token authentication, and the file with its token.

    `ray start` notes the address of its cluster among Ray's files, where that of the tests' own Ray would find it.
    """
    token = tmp_path / "auth_token"
    token.write_text("1" * 64)
    port = free_port()
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment["RAY_TMPDIR"] = str(tmp_path_factory.mktemp("r"))
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])  # the job's python
    # Ray's default port of the agent that starts jobs belongs to whichever Ray came first on this machine.
    ports = (f"--port={free_port()}", f"--dashboard-port={port}", "--dashboard-agent-listen-port=0")
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=104857600", *ports]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        started = next((line for line in process.stdout if "Ray runtime started" in line), None)
        assert started, "`ray start` ended without a Ray"
        yield f"http://127.0.0.1:{port}", token
        process.terminate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.slow
def test_a_true_job_server(job_server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, token = job_server
    arguments = ("--data", "/nowhere", "--out", str(tmp_path / "out"))
    send = ("-c", "from mimir_ray.cli import main; main()", "submit", "train", "--address", address, "--", *arguments)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")

    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "wrong"))
    (tmp_path / "wrong").write_text("2" * 64)
    refused = run_python(*send)
    assert refused.returncode == 2, refused.stderr
    assert "RAY_AUTH_TOKEN_PATH" in refused.stderr
    assert "Traceback" not in refused.stderr

    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    began = time.monotonic()
    answered = run_python(*send, timeout_s=250)
    assert answered.returncode == 2, answered.stderr + answered.stdout
    assert "mimir: --data '/nowhere' does not exist" in answered.stdout
    assert "exit code 2" in answered.stderr
    assert time.monotonic() - began < 240
