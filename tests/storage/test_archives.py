"""Members of tars are locations that are read like any other, on every file system."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from mimir_ray.storage import (
    Member,
    absolute,
    below,
    content_id,
    exists,
    file_id,
    filesystem,
    join,
    local_copy,
    located,
    member_of,
    members,
    parent,
    read_bytes,
    write_bytes,
)

FILES = {
    "a.mp4": b"first" * 1000,
    "deep/b c.mp4": os.urandom(300_000),
    "n" * 160 + ".txt": b"long name",
    "empty.txt": b"",
}


def tar_of(files: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_are_read_like_files(root: str, format: int) -> None:
    archive = absolute(join(root, "a b.tar"))
    write_bytes(archive, tar_of(FILES, format))
    found = list(members(*filesystem(archive), archive))
    assert [member.name for member in found] == list(FILES)
    for member in found:
        for location in (member.location, member._replace(offset=None).location):
            assert absolute(location) == location
            assert read_bytes(location) == FILES[member.name]
            assert file_id(location) == content_id(FILES[member.name])
            assert exists(location)
            system, path = filesystem(location)
            assert system.get_file_info(path).size == len(FILES[member.name])
            with local_copy(location) as copy:
                assert Path(copy).read_bytes() == FILES[member.name]
                assert Path(copy).suffix == Path(member.name).suffix
            assert not os.path.exists(copy)


def test_a_member_keeps_its_location(tmp_path: Path) -> None:
    member = Member("deep/b.mp4", "s3://bucket/a.tar?endpoint_override=http://127.0.0.1:5000", 512, 7)
    assert member_of(member.location) == member
    assert absolute(member.location) == member.location
    assert below(str(tmp_path), member.location) == member.location
    bucket = "s3://bucket?endpoint_override=http://127.0.0.1:5000"
    assert below(bucket, member.location) == "tar://deep/b.mp4#512,7::a.tar"
    assert located(bucket, below(bucket, member.location)) == member.location
    assert located(str(tmp_path), member.location) == member.location
    assert join(member.location) == member.location
    assert parent(member.location) == (f"tar://deep::{member.archive}", "b.mp4")
    assert parent(f"tar://b.mp4#512,7::{member.archive}") == (member.archive, "b.mp4")
    assert join(f"tar://deep::{member.archive}", "b.mp4") == f"tar://deep/b.mp4::{member.archive}"
    assert member_of("s3://bucket/a.tar") is None
    assert member_of("/data/tar:/x::y") is None


def test_a_relative_archive_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("tar://x.mp4::a.tar") == f"tar://x.mp4::{tmp_path}/a.tar"


def test_an_archive_that_changed_is_noticed(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_of(FILES))
    second = list(members(*filesystem(str(archive)), str(archive)))[1]
    archive.write_bytes(tar_of({"new.mp4": b"x" * 700, **FILES}))
    assert not exists(second.location)
    with pytest.raises(FileNotFoundError, match=r"deep/b c\.mp4"):
        read_bytes(second.location)
    assert read_bytes(second._replace(offset=None).location) == FILES[second.name]
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        read_bytes(f"tar://gone.mp4::{archive}")


def test_a_tar_that_was_added_to_gives_the_newest(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for data in (b"old", b"new one"):
            entry = tarfile.TarInfo("a.mp4")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    assert read_bytes(f"tar://a.mp4::{archive}") == b"new one"


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_a_tar_that_was_cut_gives_what_is_whole(tmp_path: Path, keep: float) -> None:
    archive, data = tmp_path / "a.tar", tar_of({"a.mp4": b"a" * 5000, "b.mp4": b"b" * 50_000})
    archive.write_bytes(data[: int(56_144 * keep)])
    found = members(*filesystem(str(archive)), str(archive))
    assert next(found).name == "a.mp4"
    with pytest.raises(OSError, match="is no tar that can be read to its end"):
        next(found)
