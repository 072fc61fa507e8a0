"""Members of tar archives as locations: `tar://clips/a.mp4#1536,20480::s3://bucket/b.tar`.

This is how fsspec chains a member to its archive. What follows the `#`, where in the archive its bytes begin and how
many they are, lets a reader go there at once; without it the archive is searched. No file system has such a path: one
of its own would have to begin with a folder `tar:` and an empty name below it.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

_BLOCK = 512
_BUFFER_BYTES = 1 << 18
_MEMBER = re.compile(
    r"tar://(?P<name>.+?)(?:#(?P<offset>\d+),(?P<size>\d+))?::(?P<archive>(?!tar://).+)", re.DOTALL | re.IGNORECASE
)


class Member(NamedTuple):
    """A file in a tar archive; `offset` is None where nobody has looked it up."""

    name: str
    archive: str
    offset: int | None = None
    size_bytes: int = 0

    @property
    def location(self) -> str:
        """What `member_of` takes apart."""
        place = "" if self.offset is None else f"#{self.offset},{self.size_bytes}"
        return f"tar://{self.name}{place}::{self.archive}"


def member_of(location: str) -> Member | None:
    """The member that a location names; None for a location of another kind."""
    match = _MEMBER.fullmatch(location)
    if match is None:
        return None
    offset = None if match["offset"] is None else int(match["offset"])
    return Member(match["name"], match["archive"], offset, int(match["size"] or 0))


def members(system: pafs.FileSystem, path: str, archive: str) -> Iterator[Member]:
    """The files in the tar at `path`, whose location is `archive`, in their order. Only headers are read.

    Raises OSError where the archive ends or is damaged, after the members that lie before that.
    """
    whole = system.open_input_file(path)
    size_bytes = whole.size()
    with io.BufferedReader(_Window(whole, 0, size_bytes), _BUFFER_BYTES) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for entry in tar:
                    if entry.isreg() and entry.offset_data + entry.size > size_bytes:
                        raise tarfile.ReadError(f"it ends inside of {entry.name}")
                    if entry.isreg():
                        yield Member(entry.name.removeprefix("./"), archive, entry.offset_data, entry.size)
        except tarfile.TarError as error:
            raise OSError(f"{archive} is no tar that can be read to its end: {error}") from None


def open_archive(system: pafs.FileSystem, path: str, archive: str) -> pafs.FileSystem:
    """The members of the tar at `path` as a file system that is read only, whose paths are their locations."""
    from fsspec import AbstractFileSystem

    class Tar(AbstractFileSystem):  # type: ignore[misc]
        protocol = "tar"
        cachable = False

        @classmethod
        def _strip_protocol(cls, location: str) -> str:
            return location

        def _place(self, location: str) -> tuple[int, int]:
            member = member_of(location)
            if member and member.offset is None:
                found = [other for other in members(system, path, archive) if other.name == member.name]
                member = found[-1] if found else None  # a tar that was added to has the newest last
            elif member and not _holds(system, path, member):
                member = None
            if member is None:
                raise FileNotFoundError(location)
            return member.offset or 0, member.size_bytes

        def info(self, location: str, **_: Any) -> dict[str, Any]:
            return {"name": location, "size": self._place(location)[1], "type": "file"}

        def ls(self, location: str, detail: bool = True, **_: Any) -> list[Any]:
            found = self.info(location)
            return [found if detail else found["name"]]

        def _open(self, location: str, mode: str = "rb", **_: Any) -> io.BufferedReader:
            if mode != "rb":
                raise OSError(f"{archive} is read only")
            offset, size = self._place(location)
            return io.BufferedReader(_Window(system.open_input_file(path), offset, size), _BUFFER_BYTES)

    return pafs.PyFileSystem(pafs.FSSpecHandler(Tar()))


def _holds(system: pafs.FileSystem, path: str, member: Member) -> bool:
    """Whether the header of this member lies where it should, with its size."""
    if member.offset is None or member.offset < _BLOCK:
        return False
    with system.open_input_file(path) as stream:
        header = stream.read_at(_BLOCK, member.offset - _BLOCK)
    try:
        entry = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    # Longer names and sizes than fit a header stand in a block of their own before it.
    short = entry.name.removeprefix("./")
    return entry.size == member.size_bytes and (short == member.name or len(member.name.encode()) > 90)


class _Window(io.RawIOBase):
    """Some bytes of a file, as a file."""

    def __init__(self, stream: pa.NativeFile, offset: int, size_bytes: int) -> None:
        self._stream, self._offset, self._size, self._at = stream, offset, size_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._at))
        data = self._stream.read_at(wanted, self._offset + self._at) if wanted else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
