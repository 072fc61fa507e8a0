"""The terminal: results on standard output, status on standard error, and one line that says how far something is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.table import Table

results = Console(highlight=False, soft_wrap=True)
"""Standard output: what the user asked for."""
status = Console(stderr=True, highlight=False)
"""Standard error: progress, warnings, mistakes."""


class Report(Protocol):
    """Takes how many are done, those of earlier runs included, how many there are, and what else is to be said."""

    def __call__(self, done: int, total: int, facts: str = "") -> None: ...


def print_whole(table: Table) -> None:
    """Print a table of figures as wide as it is: a narrow terminal wraps its lines, where rich would cut figures."""
    Console(file=results.file, highlight=False, width=1000).print(table)


def silence_loading_bars() -> None:
    """No bar for each component that diffusers and transformers load; imports both."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    diffusers_log.disable_progress_bar()
    transformers_log.disable_progress_bar()


@contextmanager
def progress_line(doing: str, unit: str = "") -> Iterator[Report | None]:
    """A line such as ``curating ━━━━━━ 0:00:41 12/40 shards  0.31/s  90 s left`` while the block runs.

    With facts it ends in those instead of pace and time left. It may be told of one series after another, in any
    thread: one that has fewer done than the last report, or another total, is a new one with a pace of its own.

    Yields None where standard error is no terminal that can redraw a line, or the user asked for quiet: whoever works
    then logs instead.
    """
    if not status.is_interactive or status.quiet:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    # What is said last changes in width; it takes the room that is left, so that nothing before it moves.
    far = TextColumn("{task.fields[far]}", table_column=Column(ratio=1, no_wrap=True))
    columns = (TextColumn("{task.description}"), BarColumn(16), TimeElapsedColumn(), far)
    with Progress(*columns, console=status, transient=True, expand=True) as shown:
        task = shown.add_task(doing, total=None, far="starting")
        pace = _Pace()

        def report(done: int, total: int, facts: str = "") -> None:
            far = f"{done}/{total} {unit}".rstrip()
            shown.update(task, completed=done, total=total, far=f"{far}  {pace.after(done, total, facts)}".rstrip())

        yield report


def time_left(seconds: float) -> str:
    """A wait as a person reads it: 42 s left, 3 min left, 2 h 05 min left."""
    if seconds < 90:
        return f"{seconds:.0f} s left"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min left" if seconds >= 5400 else f"{60 * hours + minutes} min left"


class _Pace:
    """How fast the reports of a series come."""

    def __init__(self) -> None:
        self._before = self._done = self._total = 0
        self._began_s = self._reported_s = time.monotonic()

    def after(self, done: int, total: int, facts: str) -> str:
        """Facts, or else pace and time left, where these can be told."""
        if total != self._total or done < self._done:
            self._before = max(done - 1, 0)  # earlier runs did these, at no one's rate
            self._began_s = self._reported_s
        self._done, self._total, self._reported_s = done, total, time.monotonic()
        rate = (done - self._before) / max(self._reported_s - self._began_s, 1e-9)
        if facts or not rate:
            return facts
        return f"{rate:.2f}/s  {time_left((total - done) / rate)}"
