"""WebDataset: tars of videos, with texts and facts of the same name beside them."""

import os
from pathlib import Path

import pytest

from mimir_ray.config import UserError
from mimir_ray.curation.sources import captions_of_source, plan
from mimir_ray.curation.sources.listing import UNREADABLE_NAME
from mimir_ray.storage import absolute, content_id, file_id, join, local_copy, parent, upload
from tests.curation.sources.world import files_in, found, lines, tar, texts, touch

MEMBERS = {
    "000.mp4": "first",
    "000.txt": "A dog.",
    "000.json": '{"caption": "not read: there is a text"}',
    "./001.mp4": "second",
    "001.json": '{"caption": "A cat.", "seconds": 3}',
    "deep/002.webm": "third",
    "deep/._002.webm": "of a Mac",
    "003.jpg": "a picture",
}


def test_members_are_sources(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "plain.mp4")
    tar(tmp_path / "in" / "00000.tar", MEMBERS)
    expected = {"000.mp4": ["A dog."], "001.mp4": ["A cat."], "002.webm": ["002"]}
    files = files_in(tmp_path / "in" / "00000.tar")
    for file, (name, data) in zip(
        files, [("000.mp4", "first"), ("001.mp4", "second"), ("002.webm", "third")], strict=True
    ):
        assert absolute(file.path) == file.path
        assert file.size_bytes == len(data)
        assert file_id(file.path) == content_id(data)
        with local_copy(file.path) as copy:
            assert Path(copy).read_text() == data
        assert [caption.text for caption in captions_of_source(file)] == expected[name]
    assert [file.path for file in files_in(tmp_path / "in")][1:] == [file.path for file in files]
    passed_over, hidden = found(tmp_path / "in").notes.lines()
    assert passed_over.startswith("passed over, no videos by name: 1 .jpg, 1 .json;")
    assert hidden.startswith("passed over, hidden files and folders: 1; as tar://deep/._002.webm#")
    assert sum(map(len, plan(files, 2).values())) == 3


def test_captions_files_reach_into_tars(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"x.mp4": "x", "y.mp4": "y", "metadata.csv": "file_name,text\ny.mp4,In the tar.\n"})
    lines(
        tmp_path / "captions.jsonl",
        {"path": "a.tar/x.mp4", "text": "Beside it."},
        {"path": "a.tar/y.mp4", "text": "No."},
    )
    for source in (tmp_path, tmp_path / "a.tar"):
        assert texts(source) == {"x.mp4": ["Beside it."], "y.mp4": ["In the tar."]}


def test_a_list_names_members(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar", MEMBERS)
    file = lines(
        tmp_path / "list.jsonl",
        {"path": f"tar://001.mp4::{archive}", "start": 1, "end": 2},
        {"path": f"tar://gone.mp4::{archive}"},
    )
    one, gone = files_in(file)
    assert (one.path.partition("#")[0], one.spans[0].start_s) == ("tar://001.mp4", 1)
    assert [caption.text for caption in captions_of_source(one)] == ["A cat."]
    assert gone.problem == "is not there"


def test_a_tar_that_is_cut_costs_no_more_than_what_is_missing(tmp_path: Path) -> None:
    touch(tmp_path / "plain.mp4")
    archive = tar(tmp_path / "a.tar", {"x.mp4": "x", "y.mp4": "y" * 5000})
    archive.write_bytes(archive.read_bytes()[:2500])
    (tmp_path / "b.tar").write_text("no tar")
    problems = {parent(file.path)[1]: file.problem for file in files_in(tmp_path)}
    assert [name for name, problem in problems.items() if not problem] == ["plain.mp4", "x.mp4"]
    assert all("is no tar that can be read to its end" in problems[name] for name in ("a.tar", "b.tar"))


def test_members_with_names_that_cannot_be_used_are_accounted_for(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"x.mp4": "x", "y::z.mp4": "y", os.fsdecode(b"bad\xff.mp4"): "z"})
    problems = [file.problem for file in files_in(tmp_path)]
    assert sorted(problems) == ["", "has `::` in its name: rename it in its archive", UNREADABLE_NAME]


def test_packed_archives_are_passed_over_and_said(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "b.tar.gz", tmp_path / "c.zip")
    (said,) = found(tmp_path).notes.lines()
    assert said.startswith("passed over, no videos by name: 1 .tar.gz, 1 .zip;")


def test_an_empty_tar_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no video in"):
        found(tar(tmp_path / "a.tar", {"a.jpg": "x"}))


def test_in_a_store(s3: str, tmp_path: Path) -> None:
    place = join(s3, content_id(str(tmp_path)))
    upload(str(tar(tmp_path / "a.tar", MEMBERS)), join(place, "train", "a.tar"))
    for source in (place, join(place, "train", "a.tar")):
        files = files_in(source)
        assert [file_id(file.path) for file in files] == [content_id(data) for data in ("first", "second", "third")]
        assert [captions_of_source(file)[0].text for file in files] == ["A dog.", "A cat.", "002"]
