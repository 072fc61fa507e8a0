"""metrics.jsonl: one line of JSON per interval of steps, on any file system."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pyarrow.fs as pafs

from mimir_ray.config import UserError
from mimir_ray.console import time_left
from mimir_ray.jsonl import json_lines
from mimir_ray.storage import absolute, exists, filesystem, read_bytes, write_bytes

Group = Literal["train", "validation"]

MetricsRow = dict[str, Any]
"""``step``, ``loss``, ``gradient_norm``, ``learning_rate``, ``samples_per_s``, ``remaining_s`` and telemetry:

``loss`` is None where every step of the interval was left out (``skipped_steps`` counts those of the run),
``data_wait`` is the share of time that a worker waited for a batch, ``memory_gib`` the most that rank 0 has held so
far, ``tflops_per_worker`` and ``mfu`` count the model's own operations (``model.flops``), and ``loss_by_timestep`` has
the mean loss of each tenth of the schedule, least noise first.
"""


def read_metrics(uri: str) -> list[MetricsRow]:
    """The lines written so far; a line that a kill cut short is passed over."""
    if not exists(uri):
        return []
    rows: list[MetricsRow] = []
    with suppress(UserError):
        rows.extend(row for _, row in json_lines(read_bytes(uri), uri))
    return rows


def loss_text(loss: float | None) -> str:
    """A loss for people."""
    return "-" if loss is None else f"{loss:.4f}"


def row_text(row: MetricsRow) -> str:
    """A row for people: loss, pace and time left; MFU where the device's peak is known, and the wait for data."""
    parts = [
        f"loss {loss_text(row['loss'])}",
        f"{row['samples_per_s']:.3g} samples/s",
        time_left(row["remaining_s"]),
    ]
    if row["mfu"] is not None:
        parts.append(f"MFU {row['mfu']:.0%}")
    return "  ".join([*parts, f"data wait {row['data_wait']:.0%}"])


def scalars(row: MetricsRow) -> dict[str, float]:
    """The numbers of a row but its step: a list's and a mapping's by ``name/key``, None and text left out."""
    return {name: value for key, entry in row.items() if key != "step" for name, value in _numbers(key, entry)}


class MetricsFile:
    """Appends rows. Object stores cannot append, so there the file is written whole at every ``flush``."""

    def __init__(self, uri: str, resumed_step: int) -> None:
        """Keep what an earlier attempt wrote up to ``resumed_step``; the rest will be computed again."""
        self._uri = absolute(uri)
        self._appends = isinstance(filesystem(self._uri)[0], pafs.LocalFileSystem)
        self._lines = [_line(row) for row in read_metrics(self._uri) if row["step"] <= resumed_step]
        write_bytes(self._uri, "".join(self._lines).encode())

    def append(self, row: MetricsRow) -> None:
        """Add a row; on a local file system it is there at once."""
        if self._appends:
            with Path(self._uri).open("a", encoding="utf-8") as stream:
                stream.write(_line(row))
        else:
            self._lines.append(_line(row))

    def flush(self) -> None:
        """Make every row visible."""
        if not self._appends:
            write_bytes(self._uri, "".join(self._lines).encode())


def _numbers(name: str, entry: Any) -> Iterator[tuple[str, float]]:
    if isinstance(entry, Mapping):
        for key, value in entry.items():
            yield from _numbers(f"{name}/{key}", value)
    elif isinstance(entry, list | tuple):
        for index, value in enumerate(entry):
            yield from _numbers(f"{name}/{index}", value)
    elif isinstance(entry, int | float):
        yield name, float(entry)


def _line(row: MetricsRow) -> str:
    return json.dumps(row) + "\n"
