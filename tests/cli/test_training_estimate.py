"""`mimir train --estimate`, and the tables of the documentation that come from the same functions."""

import pytest

from mimir_ray.console import results
from mimir_ray.model.flops import GPUS
from mimir_ray.recipes import RECIPES
from tests.cli.command import mimir
from tests.cli.memory_tables import BEGIN, END, PAGE, tables


def test_the_documented_tables_are_those_that_the_recipes_give() -> None:
    documented = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert documented.strip() == tables().strip(), "run python -m tests.cli.memory_tables"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the hub fails."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"the hub was asked: {arguments} {options}")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", RECIPES)
def test_no_estimate_of_a_recipe_needs_a_network(name: str) -> None:
    assert mimir("train", "--estimate", "--recipe", name).exit_code == 0
    assert mimir("precompute", "--estimate", "--clips", "1000", "--recipe", name).exit_code == 0


@pytest.mark.usefixtures("no_network")
def test_the_estimate_says_what_each_gpu_needs() -> None:
    asked = ["--recipe", "mimir_5b"]
    result = mimir("train", "--estimate", *asked)
    assert result.exit_code == 0
    assert "mimir_5b: 8,000 steps of 64, GiB a GPU" in result.stdout
    assert result.stdout.count("too small") == 3, "one H100 holds no 5B with its optimiser"
    assert "nothing of it was measured on a GPU" in " ".join(result.stdout.split())
    larger = mimir("train", "--estimate", "--gpu", "H200", "--workers", "1", *asked)
    assert larger.stdout.count("fits") == 3
    assert "too small" not in larger.stdout


def test_a_narrow_terminal_cuts_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "width", 40)
    result = mimir("train", "--estimate", "--workers", "2")
    assert result.stdout.count("fits") == 3
    assert "…" not in result.stdout


def test_the_laptops_recipe_has_an_estimate_too() -> None:
    result = mimir("train", "--estimate")
    assert result.exit_code == 0
    assert "shapes: 2,400 steps of 16" in result.stdout


@pytest.mark.parametrize("arguments", [[], ["--estimate"], ["--clips", "5"]], ids=str)
def test_precompute_does_without_data_only_to_estimate_so_many_clips(arguments: list[str]) -> None:
    result = mimir("precompute", *arguments)
    assert result.exit_code == 2
    assert "--data: it is missing; only --estimate with --clips does without" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--estimate", "--gpu", "Voodoo 2"], f"'Voodoo 2' are not known; name one of {', '.join(GPUS)}"),
        (["--estimate", "--workers", "7"], "a batch of 16 cannot be shared among 7 GPUs"),
        (["--gpu", "H100", "--data", ".", "--out", "o"], "--gpu and --workers are for --estimate"),
        (["--out", "o"], "--data: it is missing"),
        (["--data", "."], "--out: it is missing"),
    ],
    ids=str,
)
def test_a_mistake_is_named(arguments: list[str], named: str) -> None:
    result = mimir("train", *arguments)
    assert result.exit_code == 2
    assert named in " ".join(result.stderr.split())
