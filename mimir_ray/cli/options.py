"""Options that several verbs share, defined once."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mimir_ray.config import UserError

if TYPE_CHECKING:
    from mimir_ray.recipes import Recipe

RecipeName = Annotated[
    str,
    typer.Option("--recipe", metavar="NAME", help="The run's configuration: shapes (any laptop), mimir_2b, mimir_5b."),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field of the recipe, such as training.steps=100."),
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


def load_recipe(name: str, assignments: list[str] | None) -> "Recipe":
    """The recipe `name` with `assignments` applied; UserError names what is unknown and what is allowed."""
    from mimir_ray.config import override
    from mimir_ray.recipes import by_name

    return override(by_name(name), assignments or [])
