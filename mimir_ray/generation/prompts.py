"""Prompt lists (txt, jsonl, csv, parquet) become generation requests; a bad line is kept with its number and reason."""

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from mimir_ray.config import UserError, from_dict
from mimir_ray.generation.config import GenerationConfig
from mimir_ray.jsonl import decode, json_value, text_lines
from mimir_ray.records import GenerationRequest
from mimir_ray.storage import exists, filesystem, parent, read_bytes

FORMATS = (".txt", ".jsonl", ".csv", ".parquet")
OVERRIDES = ("seed", "num_frames", "height", "width", "fps", "num_inference_steps", "guidance_scale")
_INTEGERS = {"seed", "num_frames", "height", "width", "num_inference_steps"}


@dataclass(frozen=True)
class BadLine:
    """A line that is no request. ``line`` counts from 1, as an editor does; in parquet it is the row."""

    line: int
    text: str
    reason: str


@dataclass
class PromptList:
    """What a file asks for: unique requests in its order, what could not be read, how many lines repeat a request."""

    requests: list[GenerationRequest] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)
    repeated: int = 0


def read_prompts(uri: str, config: GenerationConfig, model: str) -> PromptList:
    """Read a prompt list.

    txt holds one prompt a line. jsonl, csv (with a header) and parquet have ``prompt`` and, per line if wanted, any of
    ``seed, num_frames, height, width, fps, num_inference_steps, guidance_scale``; the rest comes from ``config``.

    Raises:
        UserError: no such file, an unknown format, or a table without a prompt column.
    """
    suffix = os.path.splitext(parent(uri)[1])[1].lower()
    if suffix not in FORMATS:
        raise UserError(f"{uri} is no prompt list; use a file that ends in {', '.join(FORMATS)}")
    if not exists(uri):
        raise UserError(f"there is no prompt list at {uri}; give the path of a file with one prompt a line")
    listed = PromptList()
    seen: set[str] = set()
    for line, text, row in _rows(uri, suffix):
        try:
            request = _request(row, config, model) if isinstance(row, dict) else _fail(row)
        except UserError as error:
            listed.bad.append(BadLine(line, text, str(error)))
            continue
        if request.request_id in seen:
            listed.repeated += 1
        else:
            seen.add(request.request_id)
            listed.requests.append(request)
    return listed


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
        return str(error)
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


def _fail(reason: str) -> GenerationRequest:
    raise UserError(reason)
