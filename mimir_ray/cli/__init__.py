"""The `mimir` command: one verb per job. `python -m jobs.VERB` and `mimir submit VERB` run the same definitions."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mimir_ray import __version__
from mimir_ray.cli import config, data, doctor, export, generate, init, quickstart, serve, shapes, submit, train
from mimir_ray.console import results


class Verbs(TyperGroup):
    """Verbs, some of which have two words: `curate report` beside `curate`, which takes any number of sources."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # typer keeps its copy of click to itself
        """The name, the command and its arguments."""
        two = " ".join(args[:2])
        return (two, self.commands[two], args[2:]) if two in self.commands else super().resolve_command(ctx, args)


app = typer.Typer(
    name="mimir",
    cls=Verbs,
    help="Text-to-video that understands its prompt: curate, precompute, train, generate and serve on one Ray cluster.",
    epilog="Start with [bold]mimir quickstart[/bold], the world of shapes that ships here. Your own videos need a base "
    "that knows such: [bold]--recipe mimir_2b[/bold] or mimir_5b with every verb; mimir doctor says which fits. "
    "Exit codes: 0 done, 1 failed, 2 a mistake in the command, 130 stopped by Ctrl-C.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        results.print(f"mimir {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


for _noun in (quickstart, data, train, export, generate, serve, shapes, init, config, submit, doctor):
    _noun.add_to(app)


def main(arguments: list[str] | None = None) -> None:
    """Run one verb and leave the process with its exit code; `arguments` default to the command line's."""
    app(sys.argv[1:] if arguments is None else arguments, prog_name="mimir")
