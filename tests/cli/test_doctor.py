"""What the doctor finds, and how it says so."""

import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from mimir_ray.cli import checks, doctor
from mimir_ray.cli.checks import Finding, failure, ok, warning
from mimir_ray.cli.options import load_recipe
from mimir_ray.cli.training_estimate import gpu_gib
from tests.cli.command import mimir


def healthy() -> Iterator[Finding]:
    yield ok("disk", "80 GB free")
    yield warning("gpu", "no CUDA device", "enough for the shapes recipe")


def ill() -> Iterator[Finding]:
    yield failure("weights", "base: incomplete", "reinstall mimir-ray")


def broken() -> Iterator[Finding]:
    yield ok("codec", "found")
    raise ImportError("libav.so")


def test_warnings_are_not_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (healthy,))
    result = mimir("doctor")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "ok       disk        80 GB free"
    assert "-> enough for the shapes recipe" in result.stdout


@pytest.mark.parametrize("check", [ill, broken])
def test_failures_end_with_one_and_the_other_checks_are_still_made(
    check: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (check, healthy))
    result = mimir("doctor", "--json")
    assert result.exit_code == 1
    findings = [Finding.model_validate(finding) for finding in json.loads(result.stdout)]
    assert [finding.level for finding in findings if finding.subject in ("disk", "gpu")] == ["ok", "warning"]
    assert all(finding.remedy for finding in findings if finding.level != "ok")
    assert any(finding.level == "failure" for finding in findings)


def test_this_machine_can_do_what_the_tests_need() -> None:
    for check in (checks.python, checks.disk, checks.compiler, checks.deepspeed, checks.decoders):
        assert all(finding.level != "failure" for finding in check())
    assert [finding.level for finding in checks.round_trip()] == ["ok"]


def test_the_token_of_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [finding.level for finding in checks.ray_token()] == ["ok"]
    monkeypatch.setenv("RAY_AUTH_TOKEN", "1" * 64)
    (trap,) = checks.ray_token()
    assert (trap.level, "RAY_AUTH_MODE=token" in trap.remedy) == ("warning", True)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert [finding.level for finding in checks.ray_token()] == ["ok"]
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert [finding.level for finding in checks.ray_token()] == ["warning"]
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere")
    assert [finding.level for finding in checks.ray_token()] == ["failure"]


def test_no_cluster_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str | None = None) -> None:
        from mimir_ray.config import UserError

        raise UserError("no Ray cluster answers at 'h:6379'")

    monkeypatch.setattr("mimir_ray.cli.ray_cluster.connect", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "h:6379")
    assert [finding.level for finding in checks.ray_starts()] == ["failure"]


def test_more_cpus_than_the_machine_has_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert checks.cpu_slots(4, None).startswith("4 CPUs (slots for tasks, on 2 real ones: ")
    assert checks.cpu_slots(2, None) == checks.cpu_slots(2, "h:6379") == "2 CPUs"
    assert checks.cpu_slots(64, "h:6379") == "64 CPUs"


def test_what_an_older_gpu_is_told_makes_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    turing = SimpleNamespace(major=7, minor=5, name="Tesla T4", total_memory=15 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: turing)
    (found,) = checks.gpus()
    words = found.remedy.split()
    recipe = load_recipe(words[words.index("--recipe") + 1], [word for word in words if "=" in word])
    assert recipe.model.dtype == recipe.generation.runtime.dtype == recipe.precompute.dtype == "float16"


def test_the_bases_for_own_videos_are_told_with_what_they_take() -> None:
    """The settings make a recipe, and are those that are counted."""
    small, large = checks.bases()
    for finding, name in ((small, "mimir_2b"), (large, "mimir_5b")):
        assert finding.level == "ok"
        assert f"--recipe {name}, by formulas that no GPU has been held against" in finding.detail
        words = finding.detail.replace("(", " ").replace(")", " ").split()
        recipe = load_recipe(name, [word for word in words if word.startswith("training.")])
        assert (recipe.training.workers, recipe.training.train) == (1, "lora")
        assert f"on one GPU {gpu_gib(recipe):.0f} GiB" in finding.detail
    assert gpu_gib(load_recipe("mimir_2b", None)) < gpu_gib(load_recipe("mimir_5b", ["training.workers=8"]))
