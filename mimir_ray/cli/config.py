"""`mimir config show` and `mimir config fields`: what a run would be, and everything that can be said of it."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import typer

from mimir_ray.cli.options import Assignments, ConfigFiles, RecipeName, find_recipe, read_all
from mimir_ray.cli.verb import register
from mimir_ray.config import Change, UserError, change, differences, fingerprint, to_yaml
from mimir_ray.console import results


def add_to(app: typer.Typer) -> None:
    """Register the verbs of this module."""
    config = typer.Typer(
        name="config",
        help="Configuration: what a run would be and where each value is from; every field with its limits.",
        no_args_is_help=True,
    )
    register(
        config,
        "show",
        examples=[
            "mimir config show --recipe mimir_5b --set training.seed=1",
            "mimir config show --recipe mimir_5b --format yaml > run.yaml",
        ],
    )(show)
    register(config, "fields", examples=["mimir config fields", "mimir config fields training.validation"])(fields)
    app.add_typer(config)


def show(
    recipe: RecipeName = "shapes",
    files: ConfigFiles = None,
    assignments: Assignments = None,
    form: Annotated[
        Literal["table", "yaml", "toml"],
        typer.Option("--format", help="A table with sources, or a file for --config."),
    ] = "table",
) -> None:
    """Print the effective configuration: the recipe, changed by --config, changed by --set.

    The table says of each value whether it is the field's default, or from the recipe, a line of a file, or --set.
    """
    given, changes = find_recipe(recipe), read_all(assignments, files)
    effective = change(given, changes)
    if form == "table":
        table = _table(list(rows(effective.model_dump(mode="json"), changes)))
        results.file.write(f"{table}\nfingerprint {fingerprint(effective)}\n")
        return
    text = to_yaml(effective)
    if form == "toml":
        from mimir_ray.cli.config_file import parse_changes, to_toml

        text = to_toml(effective)
        read_back = change(given, parse_changes(text, "run.toml"))
        if lost := differences(read_back.model_dump(mode="json"), effective.model_dump(mode="json")):
            raise UserError(f"TOML has no null, so that {lost[0]} could not be said: use --format yaml")
    results.file.write(f"# read it with --recipe {recipe} --config FILE\n{text}")


def rows(effective: Mapping[str, Any], changes: Sequence[Change]) -> Iterator[tuple[str, Any, str]]:
    """Name, value and source of every field of a dumped recipe."""
    from mimir_ray.cli.config_fields import describe
    from mimir_ray.recipes import Recipe

    defaults = {field.name: field.default for field in describe(Recipe)}
    values = [made for made in reversed(changes) if not (made.file and made.value == {})]  # the others open sections
    for name, value in _leaves(effective):
        said = next((made for made in values if f"{name}.".startswith(f"{made.name}.")), None)
        if said is not None:
            yield name, value, said.origin.removesuffix(": ") or "--set"
        else:
            yield name, value, "default" if value == defaults.get(name) else "recipe"


def fields(
    prefix: Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only what begins so, such as training.")] = "",
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of the documentation.")] = False,
) -> None:
    """List every field that --set and --config take, with its type, default, limits and meaning."""
    from mimir_ray.cli.config_fields import describe, page
    from mimir_ray.recipes import Recipe

    if as_markdown:
        results.file.write(page(Recipe))
        return
    all_fields = list(describe(Recipe))
    found = [field for field in all_fields if field.name.startswith(prefix)]
    if not found:
        sections = ", ".join(field.name for field in all_fields if "." not in field.name and field.kind == "section")
        raise UserError(f"no field begins with {prefix!r}; the sections are {sections}")
    width = max(40, min(results.width, 120) - 4)
    for field in found:
        facts = ", ".join(filter(None, (field.kind, field.limits, field.default_words)))
        meaning = textwrap.indent(textwrap.fill(field.meaning, width), "    ")
        results.file.write(f"{field.name}  {facts}\n{meaning}\n")


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _table(shown: Sequence[tuple[str, Any, str]]) -> str:
    """A line for each field, which other tools can search."""
    from mimir_ray.cli.config_fields import short

    names, values, sources = zip(*shown, strict=True)
    longest, wide = max(map(len, names)), max(map(len, sources))
    lines = zip(names, sources, map(short, values), strict=True)
    return "\n".join(f"{name:<{longest}}  {source:<{wide}}  {value}" for name, source, value in lines)
