import json
import os
from pathlib import Path

import fsspec
import pytest

from mimir_ray.config import UserError
from mimir_ray.curation.sources import Caption, SourceFile, captions_of_source, plan
from mimir_ray.curation.sources import discover as find
from mimir_ray.curation.sources.listing import UNREADABLE_NAME


def discover(sources: list[str]) -> list[SourceFile]:
    return find(sources).files


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)


def names(*sources: Path | str) -> list[str]:
    return [Path(file.path).name for file in discover([str(source) for source in sources])]


def test_folders_are_searched_to_the_bottom_for_videos(tmp_path: Path) -> None:
    touch(tmp_path / "b.MP4", tmp_path / "a" / "b" / "c.mkv", tmp_path / "notes.txt", tmp_path / ".hidden.mp4")
    touch(tmp_path / ".cache" / "d.mp4")
    assert names(tmp_path) == ["c.mkv", "b.MP4"]


def test_files_and_globs_are_taken_whatever_they_are_called(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "a.bin", tmp_path / "x" / "b.bin", tmp_path / "c.mp4")
    assert names(tmp_path / "x" / "a.bin", tmp_path / "c.mp4") == ["c.mp4", "a.bin"]
    assert names(f"{tmp_path}/**/*.bin") == ["a.bin", "b.bin"]
    assert names(f"{tmp_path}/*") == ["c.mp4"]  # the folder it matches holds no video by name


def test_a_file_is_found_once(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    assert len(discover([str(tmp_path), str(tmp_path / "a.mp4"), f"{tmp_path}/*.mp4"])) == 1


def test_loops_of_links_end_and_broken_links_are_accounted_for(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "v.mp4")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "self.mp4").symlink_to("self.mp4")
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    assert sorted(names(tmp_path)) == ["gone.mp4", "self.mp4", "v.mp4"]


def test_strange_names(tmp_path: Path) -> None:
    strange = ["with space.mp4", 'quote\'s "x".mp4', "ünï-日本.mp4", "a" * 251 + ".mp4", "new\nline.mp4"]
    touch(*(tmp_path / name for name in strange))
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.mp4")).write_bytes(b"x")
    found = {Path(file.path).name: file.problem for file in discover([str(tmp_path)])}
    assert found == dict.fromkeys(strange, "") | {"bad\ufffd.mp4": UNREADABLE_NAME}


def test_a_source_that_names_nothing_is_a_mistake(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "nothing", tmp_path / "*.mp4"):
        with pytest.raises(UserError, match=r"no video in .*name a file, a glob, a list of videos"):
            discover([str(source)])


def test_an_object_stores_prefix_is_searched_like_a_folder() -> None:
    store = fsspec.filesystem("memory")
    names = ["a.mp4", "deep/b.MKV", "notes.txt", ".hidden/c.mp4"]
    for name in names:
        store.pipe(f"/bucket/raw/{name}", name.encode())
    store.pipe(
        "/bucket/raw/captions.jsonl", b'{"path": "deep/b.MKV", "captions": [{"kind": "user", "text": "A dog."}]}'
    )
    found = {file.path: (file.size_bytes, captions_of_source(file)) for file in discover(["memory://bucket/raw"])}
    assert found == {
        "memory://bucket/raw/a.mp4": (5, (Caption("filename", "a"),)),
        "memory://bucket/raw/deep/b.MKV": (10, (Caption("user", "A dog."),)),
    }
    assert [file.path for file in discover(["memory://bucket/raw/notes.txt"])] == ["memory://bucket/raw/notes.txt"]


def test_a_list_names_videos_wherever_they_are(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.mp4", tmp_path / "elsewhere.bin")
    lines = [
        {"path": "in/a.mp4", "captions": [{"kind": "long", "text": "A dog."}]},
        {"path": str(tmp_path / "elsewhere.bin")},
        {"path": "gone.mp4"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = {
        Path(file.path).name: (file.size_bytes, captions_of_source(file))
        for file in discover([f"{tmp_path}/list.jsonl"])
    }
    assert found == {
        "a.mp4": (5, (Caption("long", "A dog."),)),
        "elsewhere.bin": (13, (Caption("filename", "elsewhere"),)),
        "gone.mp4": (-1, (Caption("filename", "gone"),)),
    }


def test_captions_come_from_the_list_then_the_text_then_the_name(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.mp4", tmp_path / "in" / "b.mp4", tmp_path / "in" / "arm_wrestling-2.mp4")
    touch(tmp_path / "in" / "c.mp4")
    lines = [
        {"path": "in/a.mp4", "captions": [{"kind": "long", "text": "A dog."}, {"kind": "short", "text": "dog"}]},
        {"path": "./in/c.mp4", "captions": [{"kind": "user", "text": "outer"}]},
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    (tmp_path / "in" / "captions.jsonl").write_text(json.dumps(lines[1] | {"path": "c.mp4"}).replace("outer", "inner"))
    (tmp_path / "in" / "a.txt").write_text("not read: the list names it")
    (tmp_path / "in" / "b.txt").write_bytes(b"  A cat\n on a mat. ")
    captions = {Path(file.path).name: captions_of_source(file) for file in discover([str(tmp_path)])}
    assert captions == {
        "a.mp4": (Caption("long", "A dog."), Caption("short", "dog")),
        "arm_wrestling-2.mp4": (Caption("filename", "arm wrestling 2"),),
        "b.mp4": (Caption("user", "A cat on a mat."),),
        "c.mp4": (Caption("user", "inner"),),
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON: Expecting property name"),
        ('{"captions": []}', "line 2: names no video"),
        ('{"path": "a.mp4", "captions": [{"kind": "poem", "text": "x"}]}', "line 2: kind 'poem' is not one of long"),
        ('{"path": "a.mp4", "captions": [{"kind": "long", "text": " "}]}', "line 2: a caption is empty"),
    ],
)
def test_a_list_of_captions_with_a_mistake_names_the_line(tmp_path: Path, line: str, message: str) -> None:
    touch(tmp_path / "a.mp4")
    (tmp_path / "captions.jsonl").write_text("\n" + line)
    with pytest.raises(UserError, match=message):
        discover([str(tmp_path)])


def test_shards_are_of_about_the_size_asked_for_and_hold_every_file_once(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"{i}.mp4").write_bytes(b"x" * (100 + i))
    files = discover([str(tmp_path)])
    shards = plan(files, 16)
    assert sorted(file.path for shard in shards.values() for file in shard) == sorted(file.path for file in files)
    assert 10 <= len(shards) <= 16
    assert plan(files, 16) == shards


def test_a_changed_file_changes_its_shard_alone(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i}.mp4").write_bytes(b"x" * (100 + i))
    before = plan(discover([str(tmp_path)]), 16).keys()
    (tmp_path / "7.mp4").write_bytes(b"xx")
    touch(tmp_path / "new.mp4")
    (tmp_path / "9.txt").write_text("a caption")
    after = plan(discover([str(tmp_path)]), 16).keys()
    assert len(after) == len(before)
    assert 1 <= len(after - before) <= 3


def test_files_with_the_same_bytes_meet_in_one_shard(tmp_path: Path) -> None:
    for i in range(60):
        (tmp_path / f"{i}.mp4").write_bytes(b"x" * (100 + i // 2))
    for i in range(60, 120):  # more files of one size than fit a shard: told apart by what is in them
        (tmp_path / f"{i}.mp4").write_bytes(bytes([i // 2]) * 1000)
    shards = plan(discover([str(tmp_path)]), 8)
    for shard in shards.values():
        inside = {Path(file.path).read_bytes() for file in shard}
        assert len(shard) == 2 * len(inside)
    assert max(map(len, shards.values())) < 24
