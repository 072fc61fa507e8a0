"""What one row of a list says about a video: its path, its captions, and the spans to cut out of it."""

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from mimir_ray.config import UserError
from mimir_ray.records import CaptionKind

EXAMPLE = '{"path": "a/b.mp4", "captions": [{"kind": "long", "text": "..."}]}'
PATHS = ("path", "video", "file_name", "video_path", "video_file_name", "file_path", "filepath", "videoID")
"""Columns that name a video, the first of them that is there. `videoID` is Panda-70M's: the name without `.mp4`."""
CAPTIONS = ("captions", "caption", "text", "prompt")
"""Columns of captions; all of them are read."""
STARTS = ("start", "start_s", "start_time", "start_sec")
ENDS = ("end", "end_s", "end_time", "end_sec")
SPANS = "timestamp"
COLUMNS = (*PATHS, *CAPTIONS, *STARTS, *ENDS, SPANS)
_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)")


@dataclass(frozen=True, slots=True)
class Caption:
    """One text that describes a video or a clip, and where it comes from."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class GivenSpan:
    """A clip that a list asks for. `end_s` is infinite where it goes to the end; without captions it has its file's."""

    start_s: float
    end_s: float
    captions: tuple[Caption, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of a list: captions of the whole video, or spans with theirs."""

    path: str
    captions: tuple[Caption, ...] = ()
    spans: tuple[GivenSpan, ...] = ()


def listed(row: Any, where: str) -> Listed:
    """What a row says. Raises UserError, which names the row as `where`, for one that cannot be understood."""
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: {_shown(row)} is no object; write one object a line: {EXAMPLE}")
    path = _path(row, where)
    spans = _pairs(row, where)
    if spans is None:
        span = _start_and_end(row, where)
        captions = captions_in(row, where)
        return Listed(path, () if span else captions, (GivenSpan(*span, captions),) if span else ())
    texts = _values(next((row[name] for name in CAPTIONS if row.get(name) is not None), None))
    if len(texts) not in (0, 1, len(spans)):
        raise UserError(f"{where}: {len(texts)} captions for {len(spans)} spans; give one for each, or one for all")
    texts = texts * len(spans) if len(texts) == 1 else texts or [None] * len(spans)
    given = (GivenSpan(*span, _captions(text, where)) for span, text in zip(spans, texts, strict=True))
    return Listed(path, (), tuple(given))


def captions_in(row: Mapping[str, Any], where: str) -> tuple[Caption, ...]:
    """The captions in a row, from all of its columns that are named like one. Raises UserError."""
    return unique(caption for name in CAPTIONS for caption in _captions(row.get(name), where))


def unique(captions: Iterable[Caption]) -> tuple[Caption, ...]:
    """The captions that say something else than the ones before them."""
    found: dict[str, Caption] = {}
    for caption in captions:
        found.setdefault(caption.text, caption)
    return tuple(found.values())


def _path(row: Mapping[str, Any], where: str) -> str:
    for name in PATHS:
        value = row.get(name)
        if isinstance(value, Mapping):  # a video of the library datasets, written without its bytes
            value = value.get("path")
        if isinstance(value, str) and value.strip():
            if "\0" in value:
                raise UserError(f"{where}: {_shown(value)} cannot be a path: it has a zero character; mend the row")
            return f"{value}.mp4" if name == "videoID" else value
    raise UserError(f"{where}: names no video; write one object a line: {EXAMPLE}, or a column {', '.join(PATHS[:4])}")


def _captions(value: Any, where: str) -> tuple[Caption, ...]:
    """The captions in a text, in a kind and a text, or in a list of them."""
    if not _there(value):
        return ()
    if isinstance(value, str):
        return (Caption("user", value.strip()),)
    if isinstance(value, Mapping):
        kind, text = value.get("kind"), value.get("text")
        if not isinstance(kind, str) or kind not in get_args(CaptionKind):
            raise UserError(f"{where}: kind {kind!r} is not one of {', '.join(get_args(CaptionKind))}")
        if isinstance(text, str) and text.strip():
            return (Caption(kind, text),)
        raise UserError(f"{where}: a caption is empty or no text; leave it out")
    if isinstance(value, Sequence):
        return tuple(caption for item in value for caption in _captions(item, where))
    raise UserError(f"{where}: {_shown(value)} is no caption; write a text, or {EXAMPLE}")


def _start_and_end(row: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    start, end = (next((row[name] for name in names if _there(row.get(name))), None) for names in (STARTS, ENDS))
    if start is None and end is None:
        return None
    return _span(0 if start is None else start, math.inf if end is None else end, where)


def _pairs(row: Mapping[str, Any], where: str) -> list[tuple[float, float]] | None:
    """The spans of a column of [start, end] pairs, or of one such pair; a time of day in it is something else."""
    value = row.get(SPANS)
    if isinstance(value, str) and not value.strip().startswith(("[", "(")):
        return None
    if not isinstance(value, Sequence):
        return None
    pairs = _values(value)
    if len(pairs) == 2 and not any(isinstance(item, Sequence) and not isinstance(item, str) for item in pairs):
        pairs = [pairs]
    if not all(isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2 for pair in pairs):
        raise UserError(
            f"{where}: {SPANS} is {_shown(value)}; write pairs: [[start, end], ...] in seconds or H:MM:SS.mmm"
        )
    return [_span(start, end, where) for start, end in pairs]


def _span(start: Any, end: Any, where: str) -> tuple[float, float]:
    start_s, end_s = _seconds(start, where), math.inf if end == math.inf else _seconds(end, where)
    if not 0 <= start_s < end_s:
        raise UserError(
            f"{where}: the span {start}-{end} is empty or begins before 0; its end must lie behind its start"
        )
    return start_s, end_s


def _seconds(value: Any, where: str) -> float:
    """The seconds that a number says, or a text such as `0:01:02.500`, `62.5`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(value, str) and (match := _CLOCK.fullmatch(value.strip().replace(",", "."))):
        hours, minutes, seconds = match.groups()
        return 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(seconds)
    raise UserError(f"{where}: {_shown(value)} is no time; write seconds (62.5) or H:MM:SS.mmm (0:01:02.500)")


def _values(value: Any) -> list[Any]:
    """A list, also one that is written as JSON or as Python writes it, as a cell of a CSV file holds it."""
    if not _there(value):
        return []
    if isinstance(value, str) and value.strip().startswith(("[", "(")):
        for parse in (json.loads, ast.literal_eval):
            try:
                found = parse(value.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(found, list | tuple):
                return list(found)
    return [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)


def _there(value: Any) -> bool:
    return not (value is None or (isinstance(value, str) and not value.strip()) or value != value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
