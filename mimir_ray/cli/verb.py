"""A function becomes a verb: its common options, its log, its exit code."""

import functools
import inspect
import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from mimir_ray.cli.options import Quiet, Verbose
from mimir_ray.config import UserError
from mimir_ray.console import status

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130

logger = logging.getLogger(__name__)


def register(app: typer.Typer, name: str, *, examples: list[str], continues: bool = False, **settings: Any) -> Any:
    """Make a function the verb `name` of `app`.

    Adds `--verbose` and `--quiet`, sets logging up, and turns the way the function ends into an exit code: 0 done,
    1 failed (with a traceback), 2 a mistake of the user's (`UserError`, one message), 130 stopped by Ctrl-C or SIGTERM.

    Args:
        examples: commands to copy, shown below `--help`.
        continues: the same command run again takes up where it stopped; said when it is interrupted.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*args: Any, verbose: bool, quiet: bool, **kwargs: Any) -> None:
            set_up_logging(verbose=verbose, quiet=quiet)
            signal.signal(signal.SIGTERM, _interrupt)
            try:
                function(*args, **kwargs)
            except (KeyboardInterrupt, SystemExit):
                # Ray replaces our handlers by ones that leave with SystemExit, with 0 among its codes.
                _report_interrupt(continues)
                raise typer.Exit(INTERRUPTED) from None
            except typer.Exit:
                raise
            except Exception as error:
                mistake = _mistake_in(error)
                if mistake is None:
                    raise
                logger.debug("where the mistake was found", exc_info=error)
                report_mistake(mistake)
                raise typer.Exit(MISTAKE) from None

        common = {"verbose": Verbose, "quiet": Quiet}
        signature = inspect.signature(function)
        added = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
            for key, kind in common.items()
        ]
        run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
        run.__annotations__ = {**function.__annotations__, **common}
        epilog = "\n\n".join(["[bold]Examples[/bold]", *(f"  {line}" for line in examples)])
        app.command(name, epilog=epilog, **settings)(run)
        return function

    return decorate


def set_up_logging(*, verbose: bool, quiet: bool) -> None:
    """Log to standard error: our own information, only warnings with `quiet`, everything of ours with `verbose`."""
    handler = RichHandler(console=status, show_path=verbose, show_time=verbose, show_level=verbose, markup=False)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("mimir_ray").setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    status.quiet = quiet


def report_mistake(mistake: UserError) -> None:
    """Print a mistake's message, whether or not the user asked for quiet."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text("mimir: ", style="bold red") + Text(str(mistake)))


def _mistake_in(error: BaseException | None) -> UserError | None:
    """The user's mistake that `error` is, was raised from, or carries from a Ray worker."""
    while error is not None:
        # Ray raises a stand-in that is a UserError too, but whose text is the worker's traceback; it has the cause.
        if isinstance(error, UserError) and not hasattr(error, "cause"):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _report_interrupt(continues: bool) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)  # what is left is a clean end; a second Ctrl-C must not spoil it
    status.quiet = False
    status.print("Stopped.", style="yellow")
    if continues:
        status.print("What was finished is kept: run the same command again to continue.")
