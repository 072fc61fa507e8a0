"""Locations and files on a local disk, in memory and in an object store; kills and collisions."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from mimir_ray.config import UserError
from mimir_ray.storage import (
    Table,
    absolute,
    below,
    content_id,
    exists,
    file_id,
    filesystem,
    join,
    list_files,
    located,
    parent,
    read_bytes,
    read_json,
    write_bytes,
    write_json,
)


@pytest.mark.parametrize(
    ("uri", "parts", "joined"),
    [
        ("data", ("clips",), "data/clips"),
        ("data/", ("/clips/", "x.mp4"), "data/clips/x.mp4"),
        ("/", ("a",), "/a"),
        ("s3://bucket", ("a", "", "b"), "s3://bucket/a/b"),
        ("s3://bucket/a?region=eu-west-1", ("b",), "s3://bucket/a/b?region=eu-west-1"),
        (
            "s3://b?endpoint_override=http://x:1&scheme=http",
            ("c",),
            "s3://b/c?endpoint_override=http://x:1&scheme=http",
        ),
        ("/data/what?", ("why",), "/data/what?/why"),
        ("memory://", ("a",), "memory://a"),
    ],
)
def test_join(uri: str, parts: tuple[str, ...], joined: str) -> None:
    assert join(uri, *parts) == joined


@pytest.mark.parametrize(
    ("uri", "folder", "name"),
    [
        ("/data/a b.mp4", "/data", "a b.mp4"),
        ("/data/a/", "/data", "a"),
        ("/data", "/", "data"),
        ("/", "/", ""),
        ("prompts.txt", os.getcwd(), "prompts.txt"),
        (".", *os.path.split(os.getcwd())),
        ("memory://clips", "memory://", "clips"),
        ("memory://root/a.mp4", "memory://root", "a.mp4"),
        ("memory://", "memory://", ""),
        ("/data/what?/why?", "/data/what?", "why?"),
        ("s3://bucket/a/b.mp4", "s3://bucket/a", "b.mp4"),
        ("s3://bucket/a", "s3://bucket", "a"),
        ("s3://bucket", "s3://bucket", ""),
        ("s3://b/c/d.mp4?endpoint_override=http://x:1", "s3://b/c?endpoint_override=http://x:1", "d.mp4"),
        ("s3://b?endpoint_override=http://x:1", "s3://b?endpoint_override=http://x:1", ""),
    ],
)
def test_parent(uri: str, folder: str, name: str) -> None:
    assert parent(uri) == (folder, name)


S3 = "s3://b/data?endpoint_override=http://x:1&scheme=http"


@pytest.mark.parametrize(
    ("root", "uri", "path"),
    [
        ("/data", "/data/clips/a b.mp4", "clips/a b.mp4"),
        ("/data/", "/data/a.mp4", "a.mp4"),
        ("/", "/a/b.mp4", "a/b.mp4"),
        ("/data", "/database/a.mp4", "/database/a.mp4"),
        ("/data", "/data", "/data"),
        ("/data", "s3://data/a.mp4", "s3://data/a.mp4"),
        ("/data", "/data/what?x=1.mp4", "what?x=1.mp4"),
        ("s3://b/data", "s3://b/data/c/a.mp4", "c/a.mp4"),
        ("s3://b", "s3://b/a.mp4", "a.mp4"),
        ("s3://b/data", "s3://b/data2/a.mp4", "s3://b/data2/a.mp4"),
        ("s3://b/data", "s3://other/data/a.mp4", "s3://other/data/a.mp4"),
        ("s3://b/data", "s3://b/data//a.mp4", "s3://b/data//a.mp4"),
        (S3, join(S3, "c", "a.mp4"), "c/a.mp4"),
        (S3, "s3://b/data/a.mp4", "s3://b/data/a.mp4"),
        ("s3://b/data", join(S3, "a.mp4"), join(S3, "a.mp4")),
        (S3, "s3://b/data/a.mp4?endpoint_override=http://y:2", "s3://b/data/a.mp4?endpoint_override=http://y:2"),
        ("memory://root", "memory://root/a.mp4", "a.mp4"),
        ("memory://", "memory://a.mp4", "a.mp4"),
        ("/data", "tar://c/a.mp4#1536,20480::/data/b.tar", "tar://c/a.mp4#1536,20480::b.tar"),
        ("/data", "tar://data/a.mp4::/elsewhere/b.tar", "tar://data/a.mp4::/elsewhere/b.tar"),
        (S3, f"tar://a.mp4::{join(S3, 'b.tar')}", "tar://a.mp4::b.tar"),
    ],
)
def test_paths_below_a_root_are_relative_and_come_back(root: str, uri: str, path: str) -> None:
    assert below(root, uri) == path
    assert located(root, path) == uri
    if path != uri:
        inside, chained, file = path.rpartition("::")
        assert located("/moved", path) == f"{inside}{chained}/moved/{file}"
        assert located("s3://new/place?region=eu", "c/a.mp4") == "s3://new/place/c/a.mp4?region=eu"


def test_local_locations_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert absolute("data/../x") == str(tmp_path / "x")
    assert absolute("~/x") == "/home/someone/x"
    assert absolute("file:///a%20b/c") == "/a b/c"
    assert absolute(Path("x")) == str(tmp_path / "x")
    assert absolute("s3://bucket/x") == "s3://bucket/x"
    assert Table("x").uri == str(tmp_path / "x"), "an actor in another directory must find the same table"


@pytest.mark.parametrize(
    ("uri", "told"), [("", "the location is empty"), ("nowhere://x/y", r"cannot open nowhere:// of nowhere://x/y")]
)
def test_a_location_nobody_can_open_is_refused(uri: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        filesystem(uri)


def test_content_id_is_stable_and_unambiguous() -> None:
    assert content_id(b"x") == "de7a7f7bf47cf121"
    assert content_id("é") == content_id("é".encode())
    assert (
        len({content_id("ab", "c"), content_id("a", "bc"), content_id("abc"), content_id("abc", ""), content_id()}) == 5
    )


def test_files_come_back(root: str) -> None:
    uri = join(root, "deep", "a b#c%20é.bin")
    data = os.urandom(3 << 20)
    assert not exists(uri)
    write_bytes(uri, b"old")
    write_bytes(uri, data)
    assert exists(uri)
    assert read_bytes(uri) == data
    assert file_id(uri) == content_id(data)
    assert list_files(root) == [absolute(uri)]
    assert read_bytes(list_files(root)[0]) == data


def test_a_missing_file_is_a_missing_file(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_bytes(join(root, "nothing"))
    with pytest.raises(UserError, match="there is nothing at"):
        list_files(join(root, "nothing"))


def test_json(root: str) -> None:
    uri = join(root, "x.json")
    write_json(uri, {"a": [1, None, "é"]})
    assert read_json(uri) == {"a": [1, None, "é"]}
    write_bytes(uri, b"{half")
    with pytest.raises(UserError, match=r"x\.json.* is not JSON"):
        read_json(uri)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(uri, float("nan"))


def test_list_files_keeps_suffixes_and_passes_over_what_is_hidden(root: str) -> None:
    for name in ("b.mp4", "sub/A.MP4", "c.txt", ".d.mp4", "sub/._A.mp4", ".cache/e.mp4", "f.mp4.part"):
        write_bytes(join(root, name), b"x")
    assert list_files(root, {".mp4"}) == [absolute(join(root, name)) for name in ("b.mp4", "sub/A.MP4")]
    one = absolute(join(root, "c.txt"))
    assert list_files(one, {".mp4"}) == [one], "a file that was named is wanted, whatever its suffix"


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "x", b"old")

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(tmp_path / "x", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"old")]


def test_a_file_system_without_atomic_puts_is_written_beside_and_moved(tmp_path: Path) -> None:
    write_bytes(f"local://{tmp_path}/a/x", b"new")
    assert (tmp_path / "a" / "x").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]


WRITER = """
import sys
from mimir_ray.storage import write_bytes
print("ready", flush=True)
for turn in range(10**9):
    write_bytes(sys.argv[1], bytes([turn % 251]) * (4 << 20))
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    for delay_s in (0.0, 0.011, 0.023, 0.037):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            while not target.exists():
                time.sleep(0.001)
            time.sleep(delay_s)
            writer.send_signal(signal.SIGKILL)
        data = target.read_bytes()
        assert len(data) == 4 << 20
        assert len(set(data)) == 1
    assert list_files(tmp_path) == [str(target)], "what the kill left behind is hidden"


def test_a_table_in_a_fake_store_keeps_its_name(s3: str) -> None:
    table = Table(join(s3, "data", "captions"))
    assert table.name == "captions"
    assert parent(table.uri) == (join(s3, "data"), "captions")
    assert below(join(s3, "data"), join(table.uri, "x")) == "captions/x"


def test_the_endpoint_of_a_fake_store_is_part_of_the_location(s3: str) -> None:
    system, path = filesystem(join(s3, "a", "b"))
    assert isinstance(system, pafs.S3FileSystem)
    assert path == "bucket/a/b"
