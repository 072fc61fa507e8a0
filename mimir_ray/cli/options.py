"""Options that several verbs share, defined once."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from mimir_ray.config import Change, Config, UserError, change, read_assignments

if TYPE_CHECKING:
    from mimir_ray.recipes import Recipe

C = TypeVar("C", bound=Config)

RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="NAME",
        help="The run's configuration: shapes (any laptop), mimir_2b, mimir_5b, or your own module:function.",
    ),
]
ConfigFiles = Annotated[
    list[str] | None,
    typer.Option("--config", metavar="FILE", help="YAML or TOML with fields to change in the recipe, before --set."),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field, such as training.steps=100."),
]
RayAddress = Annotated[
    str | None,
    typer.Option("--address", help="A running Ray cluster to join; RAY_ADDRESS otherwise; a local Ray without either."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Discard what another configuration left in the output.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more, for finding out what went wrong.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings, mistakes and results.")]


Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="PATH[:SCALE]",
        help="Put a LoRA file, directory or hub id, or what `mimir export --adapter` wrote, on the model; repeatable.",
    ),
]


def lora_assignments(given: list[str] | None) -> list[str]:
    """What `--lora` sets of the recipe; UserError for a strength that is no number."""
    parsed = [_lora(text) for text in given or []]
    return [f"generation.runtime.lora={json.dumps(parsed)}"] if parsed else []


def _lora(text: str) -> dict[str, str | float]:
    path, colon, scale = text.rpartition(":")
    if not colon or Path(text).expanduser().exists():
        return {"path": text}
    try:
        return {"path": path, "scale": float(scale)}
    except ValueError:
        raise UserError(f"--lora {text!r}: the strength after the colon is {scale!r}; it must be a number") from None


def load_recipe(name: str, assignments: list[str] | None, files: list[str] | None = None) -> "Recipe":
    """The recipe `name`, changed by `files` and then by `assignments`; UserError names what is unknown or wrong."""
    return configure(find_recipe(name), assignments, files)


def find_recipe(name: str) -> "Recipe":
    """One of ours by its name, or what a user's `module:function` returns."""
    from mimir_ray.cli.user_recipe import call_recipe
    from mimir_ray.recipes import by_name

    return call_recipe(name) if ":" in name else by_name(name)


def configure(config: C, assignments: list[str] | None, files: list[str] | None) -> C:
    """`config`, changed by `files` in their order and then by `assignments`."""
    return change(config, read_all(assignments, files))


def read_all(assignments: list[str] | None, files: list[str] | None) -> list[Change]:
    """The changes of files and assignments, in the order in which they count."""
    from mimir_ray.cli.config_file import read_changes

    return [*(made for file in files or [] for made in read_changes(file)), *read_assignments(assignments or [])]
