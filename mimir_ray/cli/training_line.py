"""How far a training is: a live line in a terminal, a log line for each row of metrics elsewhere."""

import logging
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from mimir_ray.console import status
from mimir_ray.training.reporting.metrics import row_text

logger = logging.getLogger(__name__)


class TrainingLine:
    """Call it with each row of metrics, in any thread, while the block runs.

    with TrainingLine(config.steps) as line:
        train(..., on_metrics=line)
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._live: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        if status.is_terminal:
            columns = (SpinnerColumn(), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
            live = Progress(*columns, TextColumn("{task.fields[facts]}"), console=status, transient=True)
            self._live = live, live.add_task("training", total=self._steps, facts="starting")
            live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live[0].stop()

    def __call__(self, row: dict[str, Any]) -> None:
        """Show a row."""
        if self._live is None:
            logger.info("step %d/%d  %s", row["step"], self._steps, row_text(row))
        else:
            live, task = self._live
            live.update(task, completed=row["step"], facts=row_text(row))
