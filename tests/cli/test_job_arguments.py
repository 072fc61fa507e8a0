"""A recipe that is known on this machine alone reaches the cluster as data."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from mimir_ray.cli import app
from mimir_ray.cli.job_arguments import as_settings
from mimir_ray.cli.options import load_recipe
from mimir_ray.config import override
from mimir_ray.recipes import RECIPES, Recipe, by_name
from tests.cli.command import mimir
from tests.cli.job_client import FakeClient

CHANGES = [
    [],
    ["training.steps=777", "name=mine"],
    ["curation.split=off", "curation.text_area={frames: 3}", "precompute.sample_fps=null", "generation.seed=9"],
    [
        'name="1e5"',
        'model.language.question="a: b # \\"{prompt}\\" \\\\ \\n\\t\\x7f 雪 😀"',
        "training.lora.alpha=1e-7",
    ],
    ["curation.captions={}", "training.validation={every: 500, prompts: ['it''s', 'no', '']}"][:1],
    ["precompute.buckets=[{num_frames: 17, height: 480, width: 720}]", "training.betas=[0.5, 0.75]"],
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("name", RECIPES)
def test_settings_give_the_recipe_back(name: str, changes: list[str]) -> None:
    recipe = override(by_name(name), changes)
    words = shlex.split(shlex.join(as_settings(recipe)))
    assert words[0] == "--recipe"
    assert set(words[2::2]) <= {"--set"}
    assert load_recipe(words[1], words[3::2]) == recipe


def test_what_is_ours_already_is_said_by_its_name() -> None:
    """Its checkpoints lie elsewhere on the cluster."""
    assert as_settings(by_name("shapes")) == ["--recipe", "shapes"]
    assert as_settings(override(by_name("shapes"), ["name=mine"])) == ["--recipe", "shapes", "--set", "name=mine"]


def job_of(client: FakeClient) -> tuple[str, dict[str, Any], Recipe]:
    """The verb that was sent, what its command line makes of its arguments on the cluster, and the recipe there."""
    words = shlex.split(client.submitted["entrypoint"])
    assert words[:2] == ["python", "-m"]
    verb = words[2].removeprefix("jobs.")
    command = get_command(app).commands[verb]  # type: ignore[attr-defined]
    with command.make_context(verb, words[3:]) as parsed:
        given = parsed.params
    assert not given["files"]
    return verb, given, load_recipe(given["recipe"] or "shapes", given["assignments"])


def test_a_file_and_a_function_are_not_needed_on_the_cluster(
    client: FakeClient,
    tmp_path: Path,
) -> None:
    (file := tmp_path / "run.toml").write_text("[training]\nsteps = 55\nwarmup_steps = 5\n")
    (own := tmp_path / "own.py").write_text(
        "from mimir_ray.recipes import mimir_2b\nfrom mimir_ray.config import override\n"
        "def mine():\n    return override(mimir_2b(), ['name=mine', 'training.seed=4'])\n"
    )
    options = ["--recipe", f"{own}:mine", f"--config={file}", "--set", "training.lora.rank=8"]
    result = mimir("submit", "train", "--", "--data", "s3://b/my data", *options, "--out", "s3://b/--set")
    assert result.exit_code == 0, result.output
    assert str(tmp_path) not in client.submitted["entrypoint"]
    verb, given, recipe = job_of(client)
    assert (verb, given["data"], given["out"]) == ("train", "s3://b/my data", "s3://b/--set")
    assert recipe == load_recipe(f"{own}:mine", ["training.lora.rank=8"], [str(file)])


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["curate", "--overwrite", "s3://a", "s3://b", "--out", "s3://o"], {"overwrite": True, "out": "s3://o"}),
        (["curate", "--out", "--recipe", "s3://a"], {"out": "--recipe", "sources": ["s3://a"]}),
        (
            ["curate", "--out", "o", "-v", "--", "--set", "--config"],
            {"sources": ["--set", "--config"], "verbose": True},
        ),
        (["generate", "a ball --config x", "--out", "o", "--seed", "3"], {"prompt": "a ball --config x", "seed": 3}),
    ],
    ids=str,
)
def test_all_else_is_sent_as_it_is(
    arguments: list[str],
    kept: dict[str, Any],
    client: FakeClient,
    tmp_path: Path,
) -> None:
    (file := tmp_path / "run.yaml").write_text("generation:\n  num_inference_steps: 3\n")
    verb, *rest = arguments
    result = mimir("submit", verb, "--", "--config", str(file), *rest)
    assert result.exit_code == 0, result.output
    _, given, recipe = job_of(client)
    assert {key: given[key] for key in kept} == kept
    assert recipe.generation.num_inference_steps == 3


def test_without_them_the_arguments_stay(client: FakeClient) -> None:
    assert mimir("submit", "generate", "--", "s3://b/prompts.txt", "--out", "s3://b/videos").exit_code == 0
    assert client.submitted["entrypoint"] == "python -m jobs.generate s3://b/prompts.txt --out s3://b/videos"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--recipe", "nowhere:f"], "there is no module 'nowhere'"),
        (["--config", "nowhere.yaml"], "cannot read --config 'nowhere.yaml'"),
    ],
)
def test_a_recipe_that_is_none_is_not_sent(options: list[str], told: str, client: FakeClient) -> None:
    result = mimir("submit", "train", "--", "--data", "d", "--out", "o", *options)
    assert result.exit_code == 2
    assert told in result.stderr
    assert not client.submitted
