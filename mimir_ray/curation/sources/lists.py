"""Lists of videos: what people keep beside their videos, or instead of a folder of them."""

import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mimir_ray.config import UserError
from mimir_ray.curation.sources.row import CAPTIONS, COLUMNS, ENDS, PATHS, SPANS, STARTS, Listed, listed
from mimir_ray.jsonl import decode, json_lines
from mimir_ray.storage import filesystem, parent, read_bytes

LIST_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
CAPTIONS_FILES = ("captions.jsonl", "metadata.csv", "metadata.jsonl", "metadata.parquet")
"""The captions of a folder, those of the library datasets among them. They name videos relative to themselves."""
VIDEO_NAMES = ("videos.txt", "video.txt")
PROMPT_NAMES = ("prompts.txt", "prompt.txt", "captions.txt", "caption.txt")
"""Line i of one is the caption of line i of the other, as trainers built on diffusers have them."""


def is_list(name: str) -> bool:
    """Whether a source of this name is a list of videos and no video."""
    return name.lower().endswith(LIST_SUFFIXES) or name in VIDEO_NAMES


def listed_videos(file: str, prompts: str | None = None) -> Iterator[Listed]:
    """What a list says, row by row: JSON lines, CSV with a header, Parquet, or `videos.txt` with its prompts.

    Paths are as they are written. Raises UserError for a row that cannot be understood, and for a list without a
    column that names videos.
    """
    if prompts or parent(file)[1] in VIDEO_NAMES:
        yield from _paired(file, prompts)
        return
    for number, row in rows_of_list(file):
        yield listed(row, f"{file}, line {number}")


def rows_of_list(file: str) -> Iterator[tuple[int, Any]]:
    """(number, row) of a list of which columns are known by name."""
    suffix = _suffix(file)
    if suffix == ".parquet":
        yield from _parquet(file)
    elif suffix in (".csv", ".tsv"):
        yield from _csv(file)
    else:
        yield from json_lines(read_bytes(file), file)


def is_captions_file(file: str) -> bool:
    """Whether a file is read for the videos beside it: `metadata` files may keep other facts of them."""
    name = parent(file)[1]
    if name not in CAPTIONS_FILES:
        return False
    columns = set() if name == CAPTIONS_FILES[0] else set(_columns(file))
    told = (*CAPTIONS, *STARTS, *ENDS, SPANS)
    return name == CAPTIONS_FILES[0] or not (columns.isdisjoint(PATHS) or columns.isdisjoint(told))


def _paired(file: str, prompts: str | None) -> Iterator[Listed]:
    if prompts is None:
        raise UserError(
            f"{file} has no {PROMPT_NAMES[0]} beside it; write one, a caption a line, or a list with captions"
        )
    videos, texts = (_plain_lines(name) for name in (file, prompts))
    if len(videos) != len(texts):
        raise UserError(
            f"{file} has {len(videos)} lines and {prompts} has {len(texts)}; line i of one is the caption of line i of "
            "the other: give them the same number of lines"
        )
    for number, (video, text) in enumerate(zip(videos, texts, strict=True), 1):
        if video:
            yield listed({"path": video, "caption": text}, f"{file}, line {number}")
        elif text:
            raise UserError(f"{file}, line {number}: names no video for line {number} of {prompts}; write its path")


def _plain_lines(file: str) -> list[str]:
    """Every line, blank ones but for those at the end."""
    return [line.strip() for line in decode(read_bytes(file), file).rstrip().split("\n")]


def _csv(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    text = decode(read_bytes(file), file)
    columns, delimiter = _header(text)
    _need_path(file, columns)
    csv.field_size_limit(sys.maxsize)  # a row of Panda-70M has all captions of a film in one cell
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        for row in reader:
            if None in row:
                raise UserError(
                    f"{file}, line {reader.line_num}: more values than the header has columns; quote a caption that "
                    f"contains {delimiter!r}"
                )
            yield reader.line_num, {name.strip(): value for name, value in row.items() if value}
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: {error}; save it as CSV anew") from None


def _columns(file: str) -> Iterable[str]:
    suffix = _suffix(file)
    if suffix == ".parquet":
        with _opened_parquet(file) as table:
            return list(table.schema_arrow.names)
    if suffix == ".jsonl":
        first = next((value for _, value in json_lines(read_bytes(file), file)), None)
        return first if isinstance(first, dict) else ()
    return _header(decode(read_bytes(file), file))[0]


def _suffix(file: str) -> str:
    return os.path.splitext(parent(file)[1])[1].lower()


def _header(text: str) -> tuple[list[str], str]:
    """Names of the columns, and what separates them: a comma, or what Excel and others write in its place."""
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    names = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
    return [name.strip() for name in names], delimiter


def _parquet(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with _opened_parquet(file) as table:
        names = list(table.schema_arrow.names)
        _need_path(file, names)
        batches = table.iter_batches(columns=[name for name in names if name in COLUMNS])
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)


@contextmanager
def _opened_parquet(file: str) -> Iterator[pq.ParquetFile]:
    system, path = filesystem(file)
    try:
        with system.open_input_file(path) as stream:
            yield pq.ParquetFile(stream)
    except pa.ArrowInvalid as error:
        raise UserError(f"{file} is no Parquet file that can be read: {error}; write it anew") from None


def _need_path(file: str, columns: list[str]) -> None:
    if not any(name in columns for name in PATHS):
        raise UserError(f"{file} has the columns {', '.join(columns) or '(none)'}; name that of the videos {PATHS[0]}")
