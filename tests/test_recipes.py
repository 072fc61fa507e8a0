"""Recipes are complete, consistent and can be overridden."""

import inspect
import re

import pytest

from mimir_ray import recipes
from mimir_ray.config import UserError, fingerprint, from_yaml, override, to_yaml
from mimir_ray.recipes import RECIPES, Recipe, by_name


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_yaml_and_is_the_same_twice(name: str) -> None:
    recipe = by_name(name)
    assert recipe.name == name
    assert from_yaml(Recipe, to_yaml(recipe)) == recipe
    assert fingerprint(by_name(name)) == fingerprint(recipe)


@pytest.mark.parametrize("name", RECIPES)
def test_the_stages_of_a_recipe_agree(name: str) -> None:
    recipe = by_name(name)
    size = (recipe.precompute.num_frames, recipe.precompute.height, recipe.precompute.width)
    assert size == (recipe.generation.num_frames, recipe.generation.height, recipe.generation.width)
    assert recipe.serving.generation == recipe.generation
    latent_frames = (recipe.generation.num_frames - 1) // 4 + 1
    assert latent_frames % 2 == 1, "the VAE decodes an odd number of latent frames"
    if recipe.precompute.sample_fps is not None:
        assert recipe.generation.fps == recipe.precompute.sample_fps


def test_an_override_reaches_a_nested_field() -> None:
    assert override(by_name("shapes"), ["model.fuser.stabilizer=false"]).model.fuser.stabilizer is False


def test_an_unknown_recipe_names_the_known() -> None:
    with pytest.raises(UserError, match="'mimir_7b'; choose one of shapes, mimir_2b, mimir_5b"):
        by_name("mimir_7b")


def test_every_number_of_the_large_trainings_has_a_source() -> None:
    lines = inspect.getsource(recipes._training).splitlines()
    numbers = [line for line in lines if re.search(r"=\(?[\d.]", line)]
    assert len(numbers) > 10
    for line in numbers:
        assert re.search(r"# (ours|CogVideoX|paper)", line), f"{line.strip()} does not say where it comes from"


@pytest.mark.parametrize("name", ["mimir_2b", "mimir_5b"])
def test_the_large_trainings_see_the_papers_clips_once(name: str) -> None:
    training = by_name(name).training
    assert abs(training.steps * training.batch_size - 500_000) < 0.03 * 500_000
