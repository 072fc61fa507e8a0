"""The terminal: results on standard output, status on standard error."""

from rich.console import Console
from rich.table import Table

results = Console(highlight=False, soft_wrap=True)
"""Standard output: what the user asked for."""
status = Console(stderr=True, highlight=False)
"""Standard error: progress, warnings, mistakes."""


def print_whole(table: Table) -> None:
    """Print a table of figures as wide as it is: a narrow terminal wraps its lines, where rich would cut figures."""
    Console(file=results.file, highlight=False, width=1000).print(table)


def silence_loading_bars() -> None:
    """No bar for each component that diffusers and transformers load; imports both."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    diffusers_log.disable_progress_bar()
    transformers_log.disable_progress_bar()
