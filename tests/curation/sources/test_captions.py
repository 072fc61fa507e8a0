"""Captions files name videos as people and other systems write paths; what they do not name is said."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from mimir_ray.config import UserError
from mimir_ray.curation.config import CaptionRules
from mimir_ray.curation.sources import Caption, SourceFile, captions_of_source
from mimir_ray.curation.verdict import caption_rows
from mimir_ray.records import SCHEMAS
from mimir_ray.storage import write_bytes
from tests.curation.sources.world import files_in, found, lines, texts, touch

NFC, NFD = (unicodedata.normalize(form, "café-한국.mp4") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("sub/a.mp4", lambda folder: "sub/a.mp4"),
        ("sub/a.mp4", lambda folder: "./sub/a.mp4"),
        ("sub/a.mp4", lambda folder: "sub//x/../a.mp4"),
        ("sub/a.mp4", lambda folder: f"{folder}/sub/a.mp4"),
        ("sub/a.mp4", lambda folder: f"file://{folder}/sub/a.mp4"),
        ("sub/a.mp4", lambda folder: f"{folder}/../link/sub/a.mp4"),
        ("sub/a.mp4", lambda folder: "sub\\a.mp4"),
        ("sub/a.mp4", lambda folder: ".\\sub\\a.mp4"),
        ("sub/a.mp4", lambda folder: "Sub/A.MP4"),
        ("sub/a.mp4", lambda folder: "SUB\\A.mp4"),
        ("a\\b.mp4", lambda folder: "a\\b.mp4"),
        ("Straße.mp4", lambda folder: "STRASSE.MP4"),
        (NFC, lambda folder: NFD),
        (NFD, lambda folder: NFC),
        (NFD, lambda folder: NFC.upper()),
        (f"{NFD}/a.mp4", lambda folder: f"{NFC}\\A.mp4"),
    ],
)
def test_a_path_is_matched_however_it_is_written(tmp_path: Path, name: str, written: Callable[[Path], str]) -> None:
    folder = tmp_path / "videos"
    (tmp_path / "link").symlink_to("videos")
    touch(folder / name, folder / "other.mp4")
    rows = [
        {"path": written(folder), "captions": [{"kind": "long", "text": "A."}]},
        {"path": "other.mp4", "text": "B."},
    ]
    lines(folder / "captions.jsonl", *rows)
    for source in (folder, tmp_path / "link", folder / name):
        discovery = found(source)
        file = next(file for file in discovery.files if not file.path.endswith("other.mp4"))
        assert file.captions == (Caption("long", "A."),)
        assert discovery.notes.lines() == []


def test_in_a_store_too() -> None:
    for name in ("a/b.mp4", NFD):
        write_bytes(f"memory://told/{name}", b"x")
    write_bytes(
        "memory://told/captions.jsonl",
        b'{"path": "memory://told/a/b.mp4", "text": "One."}\n{"path": "A\\\\B.mp4", "text": "Two."}\n'
        + f'{{"path": "{NFC}", "text": "Three."}}\n'.encode(),
    )
    assert texts("memory://told") == {"b.mp4": ["One.", "Two."], NFD: ["Three."]}


def test_all_lines_for_a_video_are_kept_and_equal_ones_once(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    rows = [
        {"path": path, "caption": text} for path, text in [("a.mp4", "One."), ("A.mp4", "Two."), ("./a.mp4", "One.")]
    ]
    lines(tmp_path / "captions.jsonl", *rows, {"path": "a.mp4", "captions": [{"kind": "long", "text": "Three."}]})
    (tmp_path / "metadata.csv").write_text("file_name,text\na.mp4,Four.\na.mp4,Two.\n")
    assert sorted(texts(tmp_path)["a.mp4"]) == ["Four.", "One.", "Three.", "Two."]
    assert found(tmp_path).notes.lines() == []


def test_names_that_differ_in_case_alone_are_not_mixed_up(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "A.mp4", tmp_path / "b.mp4")
    if len(os.listdir(tmp_path)) < 3:
        pytest.skip("this file system takes both for one")
    rows = [("a.mp4", "small"), ("A.mp4", "large"), ("a.MP4", "neither"), ("B.MP4", "b")]
    lines(tmp_path / "captions.jsonl", *({"path": path, "text": text} for path, text in rows))
    assert texts(tmp_path) == {"a.mp4": ["small"], "A.mp4": ["large"], "b.mp4": ["b"]}
    (said,) = found(tmp_path).notes.lines()
    assert said.startswith("lines that name no video that is there, or several by another case of letters: 1 ")
    assert said.endswith("as a.MP4")


def test_lines_without_a_video_and_videos_without_a_line_are_said(tmp_path: Path) -> None:
    touch(*(tmp_path / "in" / f"{i}.mp4" for i in range(8)), tmp_path / "beside.mp4")
    rows = [{"path": f"in/{i}.mp4", "text": "x"} for i in (0, 1, 2, *range(10, 30))]
    file = lines(
        tmp_path / "captions.jsonl", *rows, {"path": "elsewhere/x.mp4", "text": "x"}, {"path": "C:\\x.mp4", "text": "x"}
    )
    notes = found(tmp_path).notes
    unmatched, without = notes.lines()
    assert unmatched.startswith("lines that name no video")
    assert f"22 {file};" in unmatched
    assert unmatched.endswith("as in/10.mp4, in/11.mp4, in/12.mp4")
    assert without.startswith("videos without a line")
    assert f"6 {file};" in without
    assert str(tmp_path / "beside.mp4") in without
    unmatched, without = found(tmp_path / "in").notes.lines()  # lines for other folders are no loss
    assert f": 20 {file};" in unmatched
    assert f": 5 {file};" in without
    (without,) = found(tmp_path / "in" / "7.mp4", tmp_path / "in" / "1.mp4").notes.lines()
    assert f": 1 {file};" in without


def test_the_nearest_file_that_names_a_video_is_heard(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "b" / "x.mp4", tmp_path / "a" / "b" / "y.mp4", tmp_path / "a" / "z.mp4")
    lines(tmp_path / "captions.jsonl", *({"path": f"a/{name}.mp4", "text": "outer"} for name in ("b/x", "b/y", "z")))
    lines(tmp_path / "a" / "b" / "captions.jsonl", {"path": "x.mp4", "text": "inner"})
    for source in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"):
        assert {name: text for name, text in texts(source).items() if name != "z.mp4"} == {
            "x.mp4": ["inner"],
            "y.mp4": ["outer"],
        }


@pytest.mark.parametrize(("encoding", "text"), [("utf-8", "café"), ("utf-8-sig", "café"), ("utf-16", "café")])
def test_texts_beside_videos_are_read_in_encodings_that_say_what_they_are(
    tmp_path: Path, encoding: str, text: str
) -> None:
    touch(tmp_path / "a.mp4")
    (tmp_path / "a.TXT").write_text(f" {text}\r\n \u2028 waits ", encoding=encoding)
    assert texts(tmp_path) == texts(tmp_path / "a.mp4") == {"a.mp4": [f"{text} waits"]}
    touch(tmp_path / "a.webm")  # of one name
    assert texts(tmp_path) == {"a.mp4": [f"{text} waits"], "a.webm": [f"{text} waits"]}


def test_a_text_in_another_encoding_stops_nothing_and_is_rejected_as_no_text(tmp_path: Path) -> None:
    touch(tmp_path / "some_dog.mp4")
    (tmp_path / "some_dog.txt").write_bytes("Un café.".encode("latin-1"))
    (file,) = files_in(tmp_path)
    captions = captions_of_source(file)
    assert captions == (Caption("user", "Un caf\ufffd."), Caption("filename", "some dog"))
    clip = {"clip_id": "x", "captions": [{"kind": caption.kind, "text": caption.text} for caption in captions]}
    rows = caption_rows(clip, "off", ())
    assert rows == caption_rows(clip, CaptionRules(), ())
    assert [(row["status"], row["rule"]) for row in rows] == [("rejected", "not_text"), ("ok", "")]
    assert "save the file that it comes from as UTF-8" in rows[0]["reason"]
    assert set(rows[0]) == set(SCHEMAS["captions"].names)


def test_a_captions_file_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    lines(
        tmp_path / "captions.jsonl",
        {"path": "b.mp4", "text": "x"},
        {"path": "a.mp4", "text": "café"},
        encoding="cp1252",
    )
    with pytest.raises(UserError, match=r"captions.jsonl, line 2: byte 0xe9 is not UTF-8; save it as UTF-8"):
        found(tmp_path)


@pytest.mark.parametrize(
    ("data", "captions"),
    [
        ('{"caption": "A dog.", "url": "x"}', ["A dog."]),
        ('{"captions": ["A dog.", "It runs."]}', ["A dog.", "It runs."]),
        ('{"prompt": "A dog.", "text": "A dog."}', ["A dog."]),
        ('{"seconds": 3}', ["a"]),
        ("{", ["a"]),
        ("[1]", ["a"]),
    ],
)
def test_facts_as_json_beside_a_video_may_have_its_caption(tmp_path: Path, data: str, captions: list[str]) -> None:
    touch(tmp_path / "a.mp4")
    (tmp_path / "a.json").write_text(data)
    assert texts(tmp_path) == {"a.mp4": captions}


def test_a_text_that_cannot_be_read_any_more_is_no_caption_less() -> None:
    with pytest.raises(FileNotFoundError):
        captions_of_source(SourceFile("/nowhere/a.mp4", 1, 1, text="/nowhere/a.txt"))
