"""JSON lines as people, language models, Notepad and Excel write them."""

import json

import pytest

from mimir_ray.config import UserError
from mimir_ray.jsonl import decode, json_lines, text_lines

SEPARATORS = ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c", "\x1d", "\x1e"]


@pytest.mark.parametrize("separator", SEPARATORS)
def test_only_a_line_feed_ends_a_line(separator: str) -> None:
    value = {"text": f"A man walks.{separator}The camera follows."}
    data = f"{json.dumps(value, ensure_ascii=separator < ' ')}\r\n\n[1]".encode()
    assert list(json_lines(data, "x.jsonl")) == [(1, value), (3, [1])]
    assert [line for line, _ in text_lines(data, "x.jsonl")] == [1, 3]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marks_of_encodings_are_read(encoding: str) -> None:
    text = '{"text": "caf\u00e9 \u65e5\u672c \U0001f600"}\n'
    assert list(json_lines(text.encode(encoding), "x")) == [(1, json.loads(text))]


def test_files_that_were_joined_have_marks_inside() -> None:
    assert list(json_lines("\ufeff1\n\ufeff2\n".encode(), "x")) == [(1, 1), (2, 2)]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1251", "shift_jis", "utf-16-le"])
def test_other_encodings_are_said_and_not_guessed(encoding: str) -> None:
    data = b"1\n2\n" + (
        "\u0437\u0434" if encoding == "cp1251" else "\u00e9\u00e9" if encoding == "latin-1" else "\u65e5\u672c\u8a9e"
    ).encode(encoding)
    with pytest.raises(UserError, match=r"list.jsonl, line 3: byte 0x\w\w is not UTF-8; save it as UTF-8"):
        decode(data, "list.jsonl")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON: Expecting property name"),
        ("[" * 100_000, "not JSON that can be read"),
        ("9" * 5000, "not JSON that can be read"),
        (r'{"text": "half \ud83d"}', r"\\ud83d is half of a character"),
    ],
)
def test_a_line_that_holds_no_value_is_named(line: str, reason: str) -> None:
    values = json_lines(f"1\n\n{line}\n".encode(), "list.jsonl")
    assert next(values) == (1, 1)
    with pytest.raises(UserError, match=f"list.jsonl, line 3: {reason}"):
        next(values)


def test_both_halves_of_a_character_are_one() -> None:
    assert list(json_lines(rb'"\ud83d\ude00"', "x")) == [(1, "\U0001f600")]
