"""Prompt lists (txt, jsonl, csv, parquet) become generation requests; a bad line is kept with its number and reason."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow.parquet as pq

from mimir_ray.config import UserError, from_dict
from mimir_ray.generation.config import GenerationConfig
from mimir_ray.jsonl import decode, json_value, text_lines
from mimir_ray.records import GenerationRequest
from mimir_ray.storage import content_id, exists, filesystem, parent, read_bytes

FORMATS = (".txt", ".jsonl", ".csv", ".parquet")
SEEDS_NAMED = 8
OVERRIDES = ("seed", "num_frames", "height", "width", "fps", "num_inference_steps", "guidance_scale")
_INTEGERS = {"seed", "num_frames", "height", "width", "num_inference_steps"}


_FURTHER = "lines repeat a prompt: they are further samples, with seeds"
_SAME = "lines repeat a prompt and its seed: they share"


@dataclass(frozen=True)
class BadLine:
    """A line that is no request. ``line`` counts from 1, as an editor does; in parquet it is the row."""

    line: int
    text: str
    reason: str

    @property
    def request_id(self) -> str:
        """Sixteen hex characters that name it where a request has its own."""
        return content_id("line", str(self.line), self.text)


@dataclass(frozen=True)
class PromptList:
    """What the lines of a file ask for."""

    lines: Sequence[tuple[int, GenerationRequest | BadLine]]
    """Number and meaning of every line that is not blank."""
    further: Sequence[int] = ()
    """The seeds of lines that repeat another one and name no seed: each is one more sample of its prompt."""

    @cached_property
    def requests(self) -> list[GenerationRequest]:
        """Every video once, in the order of the first line that asks for it."""
        asked = (meant for _, meant in self.lines if isinstance(meant, GenerationRequest))
        return list({request.request_id: request for request in asked}.values())

    @cached_property
    def bad(self) -> list[BadLine]:
        """The lines that are no requests."""
        return [meant for _, meant in self.lines if isinstance(meant, BadLine)]

    def repeats(self) -> Iterator[str]:
        """What lines that repeat others mean, in a sentence each."""
        if self.further:
            seeds = sorted(set(self.further))
            named = ", ".join(map(str, seeds)) if len(seeds) <= SEEDS_NAMED else f"{seeds[0]} to {seeds[-1]}"
            one = len(self.further) == 1
            told = "line repeats a prompt: it is a further sample, with seed" if one else _FURTHER
            yield f"{len(self.further):,} {told} {named}"
        if same := len(self.lines) - len(self.bad) - len(self.requests):
            told = "line repeats a prompt and its seed: it shares" if same == 1 else _SAME
            yield f"{same:,} {told} the video of the first of them"


def read_prompts(uri: str, config: GenerationConfig, model: str) -> PromptList:
    """Read a prompt list.

    txt holds one prompt a line. jsonl, csv (with a header) and parquet have ``prompt`` and, per line if wanted, any of
    ``seed, num_frames, height, width, fps, num_inference_steps, guidance_scale``; the rest comes from ``config``.

    A line without a seed that repeats another one is a further sample: the k-th repeat has the seed k above the first,
    where no line names that seed itself.

    Raises:
        UserError: no such file, an unknown format, or a table without a prompt column.
    """
    suffix = os.path.splitext(parent(uri)[1])[1].lower()
    if suffix not in FORMATS:
        raise UserError(f"{uri} is no prompt list; use a file that ends in {', '.join(FORMATS)}")
    if not exists(uri):
        raise UserError(f"there is no prompt list at {uri}; give the path of a file with one prompt a line")
    asked = [
        (line, _meant(line, text, row, config, model), isinstance(row, dict) and row.get("seed") is not None)
        for line, text, row in _rows(uri, suffix)
    ]
    named = {meant.request_id for _, meant, names_seed in asked if names_seed}
    latest: dict[str, GenerationRequest] = {}
    lines: list[tuple[int, GenerationRequest | BadLine]] = []
    further = []
    for line, meant, names_seed in asked:
        if isinstance(meant, GenerationRequest) and not names_seed:
            first = meant.request_id
            if first in latest:
                meant = _further(latest[first], named)
                further.append(meant.seed)
            latest[first] = meant
        lines.append((line, meant))
    return PromptList(lines, further)


def _meant(
    line: int, text: str, row: dict[str, Any] | str, config: GenerationConfig, model: str
) -> GenerationRequest | BadLine:
    try:
        return _request(row, config, model) if isinstance(row, dict) else BadLine(line, text, row)
    except UserError as error:
        return BadLine(line, text, str(error))


def _further(request: GenerationRequest, named: set[str]) -> GenerationRequest:
    """The request with the next seed that is not one of the ``named`` requests."""
    while True:
        request = request.model_copy(update={"seed": (request.seed + 1) % 2**63})
        if request.request_id not in named:
            return request


def _request(row: dict[str, Any], config: GenerationConfig, model: str) -> GenerationRequest:
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f"prompt is {prompt!r}; it must be text of at least one word")
    if unknown := [name for name in row if name not in ("prompt", "prompt_id", *OVERRIDES)]:
        raise UserError(f"unknown field {', '.join(map(repr, unknown))}; allowed are prompt, {', '.join(OVERRIDES)}")
    given = {name: row[name] for name in OVERRIDES if row.get(name) is not None}
    return from_dict(GenerationRequest, {**config.request(prompt.strip(), model).model_dump(), **given})


def _rows(uri: str, suffix: str) -> Iterator[tuple[int, str, dict[str, Any] | str]]:
    """(line number, its text, fields) of each line that is not blank; text instead of fields says what is wrong."""
    if suffix == ".parquet":
        yield from _parquet_rows(uri)
        return
    data = read_bytes(uri)
    if suffix == ".csv":
        yield from _csv_rows(uri, decode(data, uri))
        return
    for number, line in text_lines(data, uri):
        yield number, line, {"prompt": line} if suffix == ".txt" else _json_row(line, f"line {number}")


def _json_row(line: str, where: str) -> dict[str, Any] | str:
    try:
        row = json_value(line, where)
    except UserError as error:
        return str(error).removeprefix(f"{where}: ")  # a bad line says its number itself
    return row if isinstance(row, dict) else 'not a JSON object; write {"prompt": "..."}'


def _csv_rows(uri: str, text: str) -> Iterator[tuple[int, str, dict[str, Any] | str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    _need_prompt(uri, reader.fieldnames or [])
    for row in reader:
        shown = ",".join(value for value in row.values() if isinstance(value, str))
        if None in row:
            yield (
                reader.line_num,
                shown,
                "more values than the header has columns; quote a prompt that contains a comma",
            )
            continue
        try:
            yield reader.line_num, shown, {name: _number(name, value) for name, value in row.items() if value}
        except ValueError as error:
            yield reader.line_num, shown, str(error)


def _number(name: str, value: str) -> Any:
    if name not in OVERRIDES:
        return value
    try:
        return int(value) if name in _INTEGERS else float(value)
    except ValueError:
        kind = "a whole number" if name in _INTEGERS else "a number"
        raise ValueError(f"{name} is {value!r}; it must be {kind}") from None


def _parquet_rows(uri: str) -> Iterator[tuple[int, str, dict[str, Any] | str]]:
    system, path = filesystem(uri)
    with system.open_input_file(path) as source:
        table = pq.read_table(source)
    _need_prompt(uri, table.column_names)
    for number, row in enumerate(table.to_pylist(), 1):
        yield number, str(row["prompt"]), row


def _need_prompt(uri: str, columns: Any) -> None:
    if "prompt" not in columns:
        raise UserError(f"{uri} has the columns {', '.join(columns) or '(none)'}; one of them must be named prompt")
