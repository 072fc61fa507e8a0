"""Locations and files on any file system: a plain path, ``file://``, ``s3://``, ``gs://`` or any of fsspec's.

A member of a tar archive is a location as well, see ``archives``: it can be read like any other, and not written.
"""

import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import pyarrow as pa
import pyarrow.fs as pafs

from mimir_ray.config import UserError
from mimir_ray.storage.archives import member_of, open_archive

_NATIVE = {"s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs"}
_PUT_IS_ATOMIC = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory"}
_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://(?P<host>[^/?]*)(?P<path>.*?)(?P<query>\?\w+=.*)?", re.DOTALL)


def absolute(uri: str | os.PathLike[str]) -> str:
    """The location as every process understands it: local paths become absolute, other URIs stay as they are."""
    text = os.fspath(uri)
    if not text:
        raise UserError("the location is empty; name a directory such as runs/first or s3://bucket/prefix")
    if member := member_of(text):
        return member._replace(archive=absolute(member.archive)).location
    if text.startswith("file://"):
        text = url2pathname(text.removeprefix("file://").removeprefix("localhost"))
    return text if _split(text) else str(Path(os.path.abspath(os.path.expanduser(text))))


def join(uri: str | os.PathLike[str], *parts: str) -> str:
    """``uri`` with ``parts`` below it; options such as ``?endpoint_override=...`` stay at the end."""
    text = os.fspath(uri)
    if member := member_of(text):
        inside = "/".join([member.name, *(part.strip("/") for part in parts if part.strip("/"))])
        return f"tar://{inside}::{member.archive}" if inside != member.name else text
    query = _options(text)
    base = text.removesuffix(query)
    below = [part.strip("/") for part in parts if part.strip("/")]
    if below and not base.endswith("://"):
        base = base.rstrip("/") + "/"
    return base + "/".join(below) + query


def parent(uri: str | os.PathLike[str]) -> tuple[str, str]:
    """The folder that a location lies in, and its name there; options stay with the folder. The top has no name.

    A relative path is taken from the working directory. The folder of a member is one in its archive, or the archive.
    """
    text = os.fspath(uri)
    if member := member_of(text):
        inside, _, name = member.name.rpartition("/")
        return f"tar://{inside}::{member.archive}" if inside else member.archive, name
    match = _split(text)
    if match is None:
        text = os.path.abspath(text)
        return os.path.split(text)
    scheme, host, path, query = match["scheme"], match["host"], match["path"], match["query"] or ""
    if scheme.lower() not in _NATIVE:  # fsspec's memory and its like have no bucket: the host is a folder
        host, path = "", host + path
    folder, _, name = path.rstrip("/").rpartition("/")
    return f"{scheme}://{host}{folder}{query}", name


def below(root: str, uri: str) -> str:
    """``uri`` relative to ``root`` where it lies below it, else as it is: a tree that moves takes such paths along."""
    if member := member_of(uri):
        return member._replace(archive=below(root, member.archive)).location
    options = _options(root)
    path = uri.removesuffix(options).removeprefix(join(root.removesuffix(options), ".")[:-1])
    return path if _options(uri) == options and located(root, path) == uri else uri


def located(root: str, path: str) -> str:
    """The inverse of ``below``: where a path is that is relative to ``root``; others stay as they are."""
    if member := member_of(path):
        return member._replace(archive=located(root, member.archive)).location
    return path if _split(path) or os.path.isabs(path) else join(root, path)


def _options(uri: str) -> str:
    """The options of a location, such as ``?endpoint_override=...``; most have none."""
    match = _split(uri)
    return (match["query"] or "") if match else ""


def filesystem(uri: str | os.PathLike[str]) -> tuple[pafs.FileSystem, str]:
    """The file system of a location and the path in it. Raises UserError for a protocol that nothing here can open."""
    text = absolute(uri)
    if member := member_of(text):
        return open_archive(*filesystem(member.archive), member.archive), text
    match = _split(text)
    if match is None:
        return pafs.LocalFileSystem(), text
    scheme = match["scheme"].lower()
    try:
        if scheme not in _NATIVE:
            return _through_fsspec(text)
        system, root = _connect(f"{scheme}://{match['host']}{match['query'] or ''}")
    except (ImportError, ValueError, pa.ArrowException) as error:
        raise UserError(
            f"cannot open {scheme}:// of {text}: {error}; install its fsspec package or use s3:// or a path"
        ) from None
    below = match["path"].strip("/")
    return system, f"{root.rstrip('/')}/{below}" if below else root


def _split(text: str) -> re.Match[str] | None:
    return _URI.fullmatch(text)


@lru_cache(maxsize=64)
def _connect(root: str) -> tuple[pafs.FileSystem, str]:
    system, path = pafs.FileSystem.from_uri(root)
    return system, path


def _through_fsspec(uri: str) -> tuple[pafs.FileSystem, str]:
    from fsspec.core import url_to_fs

    system, path = url_to_fs(uri)
    return pafs.PyFileSystem(pafs.FSSpecHandler(system)), path


def _put_is_atomic(uri: str) -> bool:
    match = _split(uri)
    return match is not None and match["scheme"].lower() in _PUT_IS_ATOMIC


def content_id(*parts: bytes | str) -> str:
    """Sixteen hex characters that name these bytes; text is UTF-8; ``("ab", "c")`` differs from ``("a", "bc")``."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(data)
        digest.update(len(data).to_bytes(8, "big"))
    return digest.hexdigest()[:16]


def file_id(uri: str | os.PathLike[str]) -> str:
    """``content_id`` of a file's bytes, read in pieces."""
    system, path = filesystem(uri)
    digest = hashlib.sha256()
    size = 0
    with system.open_input_stream(path) as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
            size += len(piece)
    digest.update(size.to_bytes(8, "big"))
    return digest.hexdigest()[:16]


def exists(uri: str | os.PathLike[str]) -> bool:
    """Whether a file or directory is there."""
    system, path = filesystem(uri)
    return bool(system.get_file_info(path).type != pafs.FileType.NotFound)


def read_bytes(uri: str | os.PathLike[str]) -> bytes:
    """The bytes of a file. Raises FileNotFoundError."""
    system, path = filesystem(uri)
    with system.open_input_stream(path) as stream:
        return bytes(stream.read())


def write_bytes(uri: str | os.PathLike[str], data: bytes | pa.Buffer) -> None:
    """Write a file so that a reader, or a run after a kill, sees the old content or the new one and nothing between.

    Object stores publish a put when it is complete. Elsewhere a hidden sibling is written, flushed and renamed.
    """
    system, path = filesystem(uri)
    if _put_is_atomic(os.fspath(uri)):
        with system.open_output_stream(path) as stream:
            stream.write(data)
        return
    folder, _, name = path.rpartition("/")
    hidden = f"{folder}/.{name}.{secrets.token_hex(6)}.tmp"
    system.create_dir(folder or "/", recursive=True)
    try:
        if isinstance(system, pafs.LocalFileSystem):
            _write_and_sync(hidden, data)
            os.replace(hidden, path)
            _sync_directory(folder or "/")
        else:
            with system.open_output_stream(hidden) as stream:
                stream.write(data)
            system.move(hidden, path)
    except BaseException:
        if system.get_file_info(hidden).type != pafs.FileType.NotFound:
            system.delete_file(hidden)
        raise


def upload(path: str, uri: str | os.PathLike[str]) -> None:
    """Write the bytes of a local file as ``write_bytes`` does, without holding them."""
    with pa.memory_map(path) as source:
        write_bytes(uri, source.read_buffer())


def _write_and_sync(path: str, data: bytes | pa.Buffer) -> None:
    with open(path, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def local_copy(uri: str | os.PathLike[str]) -> Iterator[str]:
    """The path of a local file with the bytes of ``uri``: the file itself, or a copy that is removed afterwards."""
    system, path = filesystem(uri)
    if isinstance(system, pafs.LocalFileSystem):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mimir-") as folder:
        copy = os.path.join(folder, "copy" + os.path.splitext(parent(uri)[1])[1])
        pafs.copy_files(path, copy, source_filesystem=system)
        yield copy


class LatestCopy:
    """Local copies of files, of which the last one is kept: clips of a film are read one after another."""

    def __init__(self) -> None:
        self._kept = ExitStack()
        self._uri = self._path = ""

    def of(self, uri: str) -> str:
        """What `local_copy` gives, until another file is asked for. Raises what that raises."""
        if uri != self._uri:
            self.close()
            self._path = self._kept.enter_context(local_copy(uri))
            self._uri = uri
        return self._path

    def close(self) -> None:
        """Remove the copy; the next file that is asked for is fetched anew."""
        self._kept.close()
        self._uri = ""


def read_json(uri: str | os.PathLike[str]) -> Any:
    """The value in a JSON file. Raises FileNotFoundError, and UserError where it is not JSON."""
    try:
        return json.loads(read_bytes(uri))
    except ValueError as error:
        raise UserError(
            f"{os.fspath(uri)} is not JSON ({error}); it was changed by hand: restore or remove it"
        ) from None


def write_json(uri: str | os.PathLike[str], value: Any) -> None:
    """Write a value as JSON, atomically."""
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def list_files(uri: str | os.PathLike[str], suffixes: Collection[str] = ()) -> list[str]:
    """Every file at or below ``uri``, sorted; hidden files and directories are passed over.

    ``suffixes`` such as ``{".mp4"}`` keep only those files, in any case of letters. Raises UserError where nothing is
    there.
    """
    base = absolute(uri)
    system, path = filesystem(base)
    kind = system.get_file_info(path).type
    if kind == pafs.FileType.File:
        return [base]
    if kind == pafs.FileType.NotFound:
        raise UserError(f"there is nothing at {base}; name a directory of videos or a file")
    wanted = tuple(suffix.lower() for suffix in suffixes)
    found = []
    for info in system.get_file_info(pafs.FileSelector(path, recursive=True)):
        if info.type != pafs.FileType.File:
            continue
        below = info.path.lstrip("/").removeprefix(path.strip("/")).lstrip("/")
        if any(part.startswith(".") for part in below.split("/")):
            continue
        if not wanted or below.lower().endswith(wanted):
            found.append(join(base, below))
    return sorted(found)
