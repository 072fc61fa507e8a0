"""How far a long verb is: one line that moves on a terminal; elsewhere nothing, and the log says it line by line."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mimir_ray.console import status

Report = Callable[[int, int], None]
"""Takes how many are done, those of earlier runs included, and how many there are."""


@contextmanager
def progress_line(doing: str, unit: str) -> Iterator[Report | None]:
    """A line such as ``curating ━━━━━━ 12/40 shards, 0.31/s, 1:30 left`` while the block runs.

    Yields None where standard error is no terminal, or the user asked for quiet: the verb then logs instead.
    """
    if not status.is_terminal or status.quiet:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[far]}"), TimeElapsedColumn())
    with Progress(*columns, console=status, transient=True) as shown:
        task = shown.add_task(doing, total=None, far="starting")
        began_s, before = time.monotonic(), 0

        def report(done: int, total: int) -> None:
            nonlocal before
            if not shown.tasks[0].total:
                before = done - 1  # earlier runs did these, at no one's rate
            rate = (done - before) / max(time.monotonic() - began_s, 1e-9)
            far = f"{done}/{total} {unit}, {rate:.2f}/s, {left((total - done) / rate)} left"
            shown.update(task, completed=done, total=total, far=far)

        yield report


def left(seconds: float) -> str:
    """A duration as a person reads it: 42 s, 3 min, 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours and seconds >= 5400 else f"{60 * hours + minutes} min"
