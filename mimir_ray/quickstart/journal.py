"""What the stages say while they run, and what they leave behind for the report: words and seconds."""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import RenderableType

from mimir_ray.console import Report, progress_line, status
from mimir_ray.quickstart.report import Step
from mimir_ray.storage import exists, read_json, write_json

SILENCE_S = 15.0
"""Where there is no terminal to draw a live line on, a line at most this often."""


class RunningStage:
    """A running stage: call it with the parts done and their number; ``did`` says in the end what came of it."""

    def __init__(self, title: str, report: Report | None) -> None:
        self.title = title
        self.outcome = ""
        self.detail: RenderableType | None = None
        self.reused = False
        self._report = report
        self._spoke_s = time.monotonic()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show how far the stage is."""
        if self._report is not None:
            self._report(done, total, note)
        elif time.monotonic() - self._spoke_s > SILENCE_S:
            self._spoke_s = time.monotonic()
            _say(f"{self.title:<16} {done} of {total}  {note}")

    def did(self, outcome: str, *, reused: bool = False, detail: RenderableType | None = None) -> None:
        """Say what the stage came to; ``reused`` when an earlier run had finished it, ``detail`` is shown below."""
        self.outcome, self.reused, self.detail = outcome, reused, detail


class Journal:
    """The stages of a run in order. Their seconds are those of the run that finished them, kept in one file."""

    def __init__(self, file: Path, stages: int) -> None:
        self._file = file
        self._stages = stages
        self._number = 0
        kept = read_json(file) if exists(file) else {}
        self.steps: dict[str, Step] = {name: Step(name, **step) for name, step in kept.items()}

    @contextmanager
    def stage(self, name: str) -> Iterator[RunningStage]:
        """Run a stage: a live line while it works, a line when it is done."""
        self._number += 1
        title = f"{self._number}/{self._stages} {name}"
        with _others_quiet(), progress_line(title) as report:
            began_s = time.monotonic()
            stage = RunningStage(title, report)
            yield stage
        seconds = time.monotonic() - began_s
        if stage.reused and name in self.steps:
            _say(f"{title:<16} already finished: {stage.outcome}")
        else:
            _say(f"{title:<16} {stage.outcome} ({seconds:.0f} s)")
            self.steps[name] = Step(name, stage.outcome, seconds)
            kept = {step.name: {"did": step.did, "seconds": step.seconds} for step in self.steps.values()}
            write_json(self._file, kept)
        if stage.detail is not None:
            status.print(stage.detail)


def _say(line: str) -> None:
    """A line for the user, whole: a terminal wraps it, a file keeps it."""
    status.print(line, soft_wrap=True, markup=False)


@contextmanager
def _others_quiet() -> Iterator[None]:
    """Keep the rooms' and Ray Data's own lines out of the way of ours, unless the user asked for everything."""
    import ray.data  # sets its loggers up, which must not happen after this
    from ray.util.annotations import RayDeprecationWarning

    context = ray.data.DataContext.get_current()
    names = ["ray.data", *(f"mimir_ray.{room}" for room in ("curation", "precompute", "training", "generation"))]
    loggers = [logging.getLogger(name) for name in names]
    before = [log.level for log in loggers], context.enable_progress_bars
    if not logging.getLogger("mimir_ray").isEnabledFor(logging.DEBUG):
        context.enable_progress_bars = False
        for log in loggers:
            log.setLevel(logging.ERROR if log.name == "ray.data" else logging.WARNING)
    try:
        with warnings.catch_warnings():
            for notice in (FutureWarning, RayDeprecationWarning):  # what libraries tell each other
                warnings.simplefilter("ignore", notice)
            yield
    finally:
        levels, context.enable_progress_bars = before
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
