"""Options that several verbs share, defined once."""

from typing import TYPE_CHECKING, Annotated

import typer

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


def load_recipe(name: str, assignments: list[str] | None) -> "Recipe":
    """The recipe `name` with `assignments` applied; UserError names what is unknown and what is allowed."""
    from mimir_ray.config import override
    from mimir_ray.recipes import by_name

    return override(by_name(name), assignments or [])
