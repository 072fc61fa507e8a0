"""JSON lines and other text: bytes become lines and values, or a sentence that says where they do not."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from mimir_ray.config import UserError

_MARKS = (  # the first four bytes of UTF-32 begin like UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HALF = re.compile(r"[\ud800-\udfff]")


def decode(data: bytes, where: str) -> str:
    """Text of UTF-8 with or without a byte-order mark, or of UTF-16 and UTF-32 with one.

    Raises UserError, which names the line in `where`, for bytes of any other encoding: none is guessed.
    """
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the mark, which has no line feed
        line = error.object[: error.start].count(b"\n") + 1
        wrong = (
            f"byte 0x{error.object[error.start]:02x} is not {'UTF-8' if encoding == 'utf-8-sig' else encoding.upper()}"
        )
        raise UserError(
            f"{where}, line {line}: {wrong}; save it as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8, or what it is)"
        ) from None


def text_lines(data: bytes, where: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of each line that is not blank. Lines end in a line feed, with or without a return before.

    What else ends a line for `str.splitlines` (U+2028, U+2029, U+0085 ...) is a character of a text like any other.
    Raises UserError where `decode` does.
    """
    for number, line in enumerate(decode(data, where).split("\n"), 1):
        if line := line.strip(" \t\r\n\ufeff"):  # joined files may have marks inside
            yield number, line


def json_value(line: str, where: str) -> Any:
    """The value that a line holds. Raises UserError for what is not JSON, or holds half of a character."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error.msg} at column {error.colno}; write one value a line") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise UserError(f"{where}: not JSON that can be read: {error}; write one value a line") from None
    if "\\u" in line and (half := _HALF.search(json.dumps(value, ensure_ascii=False))):
        raise UserError(f"{where}: \\u{ord(half[0]):04x} is half of a character; write both halves or the character")
    return value


def json_lines(data: bytes, where: str) -> Iterator[tuple[int, Any]]:
    """(number from 1, value) of each line that is not blank.

    Raises UserError for the first line that holds no value: it names `where`, the line, and what is wrong.
    """
    for number, line in text_lines(data, where):
        yield number, json_value(line, f"{where}, line {number}")
