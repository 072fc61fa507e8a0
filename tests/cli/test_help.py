"""What every verb says of itself, and how little it takes to say it."""

import json
import runpy
import sys

import pytest

from mimir_ray import __version__
from mimir_ray.cli.submit import VERBS
from tests.cli.command import ROOT, mimir, run_python

EVERY_VERB = (
    *(["quickstart"], ["curate"], ["precompute"], ["train"], ["generate"], ["serve"], ["init"], ["doctor"], ["submit"]),
    *(["curate", "report"], ["shapes", "render"], ["shapes", "pretrain"], ["shapes", "score"]),
    *(["config", "show"], ["config", "fields"]),
)
HEAVY = {"torch", "ray", "transformers", "diffusers", "deepspeed", "cv2", "av", "pyarrow", "numpy"}


@pytest.mark.parametrize("verb", EVERY_VERB, ids=" ".join)
def test_help_shows_a_command_to_copy(verb: list[str]) -> None:
    result = mimir(*verb, "--help")
    assert result.exit_code == 0
    _, _, examples = result.stdout.partition("Examples")
    assert f"mimir {' '.join(verb)}" in examples
    assert "--verbose" in result.stdout
    assert "--quiet" in result.stdout


def test_no_example_is_too_long_to_copy_from_a_narrow_terminal() -> None:
    for verb in EVERY_VERB:
        for line in mimir(*verb, "--help").stdout.partition("Examples")[2].splitlines():
            assert len(line.strip()) <= 78, line


def test_version() -> None:
    assert mimir("--version").stdout.strip() == f"mimir {__version__}"


def test_help_loads_nothing_heavy_and_takes_less_than_a_second() -> None:
    code = """
import json, resource, sys
from mimir_ray.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"modules": sorted(sys.modules), "cpu_s": usage.ru_utime + usage.ru_stime}), file=sys.stderr)
"""
    run = run_python("-c", code)
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stderr.splitlines()[-1])
    assert not HEAVY & set(facts["modules"])
    assert facts["cpu_s"] < 1


@pytest.mark.parametrize("verb", VERBS)
def test_a_job_has_the_options_of_its_verb(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", [f"jobs/{verb}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"jobs.{verb}", run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.split() == mimir(verb, "--help").stdout.split()


@pytest.mark.parametrize("verb", VERBS)
def test_a_jobs_docstring_has_commands_to_copy(verb: str) -> None:
    text = (ROOT / "jobs" / f"{verb}.py").read_text()
    assert f"mimir submit {verb} --address" in text
    assert "without a GPU" in text
    assert text.count(f"python -m jobs.{verb} ") == 2
