"""Every file of a folder is a source, a list or a text that is used, or is said to be passed over."""

import json
import logging
import os
from pathlib import Path

import pytest

from mimir_ray.curation.sources.notes import MAX_PATHS, SOURCES_FILE, Notes
from mimir_ray.storage import read_json, write_bytes
from tests.curation.sources.world import files_in, found, lines, touch


def test_what_is_no_video_is_counted_by_suffix(tmp_path: Path) -> None:
    names = [
        "a.mp4",
        "b.GIF",
        "c.webp",
        "d.jpg",
        "e.JPG",
        "sub/f.wav",
        "README",
        "g.txt",
        "a.txt",
        "h.parquet",
        "a.json",
    ]
    touch(*(tmp_path / name for name in names))
    touch(tmp_path / ".hidden.mp4", tmp_path / ".cache" / "x.mp4", tmp_path / ".cache" / "y.mp4")
    lines(tmp_path / "captions.jsonl", {"path": "b.GIF", "text": "A."})
    discovery = found(tmp_path)
    assert [Path(file.path).name for file in discovery.files] == ["a.mp4", "b.GIF"]
    passed_over, hidden, _ = discovery.notes.lines()
    counts = "2 .jpg, 1 .webp, 1 without a suffix, 1 .parquet, 1 .wav, 1 .json, 1 .txt"
    assert sorted(passed_over.partition(";")[0].removeprefix("passed over, no videos by name: ").split(", ")) == sorted(
        counts.split(", ")
    )
    assert str(tmp_path) in passed_over
    assert hidden == f"passed over, hidden files and folders: 2; as {tmp_path}/.cache, {tmp_path}/.hidden.mp4"


@pytest.mark.parametrize("link", [False, True])
def test_the_output_inside_of_a_source_is_no_source(tmp_path: Path, link: bool) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "corpus" / "out"
    touch(corpus / "a.mp4", out / "media" / "clip.mp4", out / "clips" / "0.parquet", corpus / "output" / "b.mp4")
    if link:
        (tmp_path / "link").symlink_to("corpus")
    sources = [str(tmp_path / "link")] if link else [str(corpus), f"{corpus}/**/*.mp4"]
    for source in sources:
        discovery = found(source, out=str(out))
        assert [Path(file.path).name for file in discovery.files] == ["a.mp4", "b.mp4"]
        (said,) = discovery.notes.lines()
        assert said.startswith(f"passed over, files of the output folder: {1 if '*' in source else 2}; as ")
    (inside,) = found(f"{corpus}/*", out=str(out)).notes.lines()
    assert inside == f"passed over, files of the output folder: 1; as {out}"
    assert len(files_in(out / "media")) == 1
    assert len(found(out / "media", out=str(out)).files) == 1  # who names it means it
    assert len(found(corpus, out=str(corpus)).files) == 3


def test_the_output_inside_of_a_prefix_is_no_source() -> None:
    for name in ("a.mp4", "out/clip.mp4", "output/b.mp4"):
        write_bytes(f"memory://noted/{name}", b"x")
    discovery = found("memory://noted", out="memory://noted/out")
    assert [file.path for file in discovery.files] == ["memory://noted/a.mp4", "memory://noted/output/b.mp4"]
    assert discovery.notes.lines() == ["passed over, files of the output folder: 1; as memory://noted/out/clip.mp4"]


def test_nothing_is_lost_and_memory_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    assert notes.lines() == []
    for index in range(MAX_PATHS + 500):
        notes.add("passed_over", f".{index % 20}", f"/x/{index}.{index % 20}")
    notes.write(str(tmp_path))
    kept = read_json(str(tmp_path / SOURCES_FILE))
    assert kept["passed_over"]["count"] == MAX_PATHS + 500
    assert sum(kept["passed_over"]["by"].values()) == MAX_PATHS + 500
    assert len(kept["passed_over"]["paths"]) == MAX_PATHS
    assert "others; as /x/0.0, /x/1.1, /x/2.2" in notes.lines()[0]
    notes.add("not_there", "", "/x/gone.mp4")
    with caplog.at_level(logging.INFO):
        notes.log()
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


def test_names_that_are_no_text_can_be_written_down(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.jp\xfe")).write_bytes(b"x")
    notes = found(tmp_path).notes
    notes.write(str(tmp_path / "out"))
    assert "bad\ufffd.jp\ufffd" in json.dumps(read_json(str(tmp_path / "out" / SOURCES_FILE)), ensure_ascii=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_accounted_for(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "locked" / "b.mp4")
    (tmp_path / "locked").chmod(0)
    try:
        assert {Path(file.path).name: file.problem for file in files_in(tmp_path)} == {
            "a.mp4": "",
            "locked": "cannot be listed: Permission denied",
        }
    finally:
        (tmp_path / "locked").chmod(0o700)
