"""The arguments of a job. What lies on this machine alone, a file or a user's own function, travels in them as data."""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from mimir_ray import yaml_core
from mimir_ray.cli.options import load_recipe

if TYPE_CHECKING:
    from mimir_ray.recipes import Recipe

_SAID_ANEW = ("--recipe", "--config", "--set")


def job_arguments(parsed: Mapping[str, Any], arguments: Sequence[str], with_value: Set[str]) -> list[str]:
    """`arguments` of a verb, with `--config` and a `--recipe module:function` as the settings that they come to.

    Args:
        parsed: what the command line made of them.
        with_value: the verb's options that a value follows.

    Raises:
        UserError: they make no recipe.
    """
    name = parsed["recipe"] or "shapes"
    recipe = load_recipe(name, parsed["assignments"], parsed["files"])
    if ":" not in name and not parsed["files"]:
        return list(arguments)
    return [*as_settings(recipe), *_others(arguments, with_value)]


def as_settings(recipe: "Recipe") -> list[str]:
    """The `--recipe` of ours that is nearest, and a `--set` for each field in which it differs."""
    from mimir_ray.recipes import RECIPES

    wanted = recipe.model_dump(mode="json")
    by_base = {name: list(_settings(make().model_dump(mode="json"), wanted)) for name, make in RECIPES.items()}
    nearest = min(by_base, key=lambda name: len(by_base[name]))
    return ["--recipe", nearest, *(word for setting in by_base[nearest] for word in ("--set", setting))]


def _settings(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict) and value.keys() == before.keys():
            yield from _settings(before, value, f"{prefix}{key}.")
        elif value != before:
            yield f"{prefix}{key}={yaml_core.dump_inline(value)}"


def _others(arguments: Sequence[str], with_value: Set[str]) -> Iterator[str]:
    """The arguments without the options that are said anew."""
    words = iter(arguments)
    for word in words:
        if word == "--":
            yield word
            yield from words
            return
        said_anew = word.partition("=")[0] in _SAID_ANEW
        following = [next(words)] if word in with_value else []
        if not said_anew:
            yield from (word, *following)
