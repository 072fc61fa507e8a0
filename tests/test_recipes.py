"""Recipes are complete, consistent and can be overridden."""

import inspect
import re

import pytest
from pydantic import ValidationError

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
def test_what_a_recipe_generates_the_vae_can_decode(name: str) -> None:
    latent_frames = (by_name(name).generation.num_frames - 1) // 4 + 1
    assert latent_frames % 2 == 1, "the VAE decodes an odd number of latent frames"


DISAGREEMENTS = [
    ("shapes", "generation.num_frames=17", "generation.num_frames is 17 and precompute.num_frames is 9"),
    ("shapes", "precompute.num_frames=17", "generation.num_frames is 9 and precompute.num_frames is 17"),
    ("mimir_2b", "generation.height=240", "generation.height is 240 and precompute.height is 480"),
    ("mimir_5b", "precompute.height=240", "generation.height is 480 and precompute.height is 240"),
    ("mimir_5b", "generation.width=1360", "generation.width is 1360 and precompute.width is 720"),
    ("shapes", "precompute.width=96", "generation.width is 64 and precompute.width is 96"),
    ("mimir_5b", "generation.fps=16", "generation.fps is 16.0 and precompute.sample_fps is 8.0"),
    ("mimir_2b", "precompute.sample_fps=4", "generation.fps is 8.0 and precompute.sample_fps is 4.0"),
    ("shapes", "precompute.sample_fps=3.5", "generation.fps is 2.0 and precompute.sample_fps is 3.5"),
    ("shapes", "model.dtype=float16", "model.dtype is float16 and generation.runtime.dtype is float32"),
    ("mimir_2b", "generation.runtime.dtype=float16", "model.dtype is bfloat16 and generation.runtime.dtype is float16"),
    ("mimir_5b", "precompute.dtype=float16", "model.dtype is bfloat16 and precompute.dtype is float16"),
]


def refusal(recipe: Recipe, *assignments: str) -> str:
    """What is said against the recipe with these assignments; nothing where there is nothing to say."""
    try:
        override(recipe, assignments)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("name", "assignment", "told"), DISAGREEMENTS)
def test_sections_that_disagree_make_no_recipe_and_what_is_advised_ends_it(
    name: str, assignment: str, told: str
) -> None:
    recipe = by_name(name)
    message = refusal(recipe, assignment)
    assert told in message
    advised = re.findall(r"set ([\w.]+=[\w.]+) or ([\w.]+=[\w.]+)", message)[0]
    after = [refusal(recipe, assignment, advice) for advice in advised]
    assert not any(told in text for text in after)
    assert "" in after
    section, _, inner = assignment.partition(".")
    with pytest.raises(ValidationError, match=re.escape(told)):
        Recipe(**(dict(recipe) | {section: override(getattr(recipe, section), [inner])}))


@pytest.mark.parametrize(
    "assignments",
    [("generation.height=240", "precompute.height=240"), ("model.dtype=float16", "generation.runtime.dtype=float16")],
)
def test_only_the_whole_is_judged_whatever_was_set_first(assignments: tuple[str, str]) -> None:
    recipe = by_name("shapes")
    assert override(recipe, assignments) == override(recipe, assignments[::-1]) != recipe
    assert refusal(recipe, assignments[0])


def test_all_that_disagrees_is_said_at_once() -> None:
    with pytest.raises(UserError) as refused:
        override(by_name("mimir_5b"), ["generation.num_frames=25", "generation.height=240", "generation.fps=4"])
    for field in ("precompute.num_frames=25", "precompute.height=240", "precompute.sample_fps=4.0"):
        assert f"set {field} or" in str(refused.value)


def test_any_of_the_sizes_that_are_trained_on_can_be_generated() -> None:
    tall = ["precompute.buckets=[{num_frames: 49, height: 720, width: 480}]", "generation.height=720"]
    assert override(by_name("mimir_5b"), [*tall, "generation.width=480"]).generation.height == 720
    with pytest.raises(
        UserError, match=r"generation\.height is 720 and precompute\.height is 480.*precompute\.buckets"
    ):
        override(by_name("mimir_5b"), tall)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_may_be_stored_in_fewer_digits_than_float32(dtype: str) -> None:
    assert override(by_name("shapes"), [f"precompute.dtype={dtype}"]).precompute.dtype == dtype


def test_what_is_set_for_generation_is_served() -> None:
    wanted = ["generation.num_frames=17", "precompute.num_frames=17", "generation.seed=5", "serving.port=9000"]
    recipe = override(by_name("shapes"), wanted)
    endpoint = recipe.endpoint("owner/name")
    assert endpoint.generation == recipe.generation
    assert (endpoint.checkpoint, endpoint.port) == ("owner/name", 9000)
    with pytest.raises(UserError, match=r"no field serving\.generation"):
        override(recipe, ["serving.generation.num_frames=17"])


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (
            "serving.limits.max_frames=33",
            r"num_frames of 49 .* limits\.max_frames is 33.*; raise limits\.max_frames to 49",
        ),
        ("serving.limits.max_pixels=4096", r"height x width of 345600 .* limits\.max_pixels is 4096"),
        ("generation.num_inference_steps=201", r"num_inference_steps of 201 .* limits\.max_inference_steps is 200"),
    ],
)
def test_an_endpoint_that_would_refuse_its_own_default_is_refused(setting: str, told: str) -> None:
    recipe = override(by_name("mimir_5b"), [setting])  # which other verbs have no quarrel with
    with pytest.raises(UserError, match=told):
        recipe.endpoint("owner/name")


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
