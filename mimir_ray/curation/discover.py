"""Which files there are to curate, and how they are cut into shards of work."""

import glob
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow.fs as pafs

from mimir_ray.config import UserError
from mimir_ray.curation.captions import Caption, CaptionFiles, listed_videos, words
from mimir_ray.storage import absolute, content_id, filesystem, join, parent, shard_name

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for names in ("3gp avi flv m2ts m4v mkv mov mp4", "mpeg mpg mts ogv ts webm wmv y4m")
    for name in names.split()
)
LIST_SUFFIX = ".jsonl"
UNREADABLE_NAME = "its name is not UTF-8: rename it"
SAMPLE_BYTES = 1 << 12


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to curate. `problem` says why it cannot even be tried, or is empty.

    The driver holds one for each file of the corpus, so it is small.
    """

    path: str
    size_bytes: int
    modified_ns: int
    captions: tuple[Caption, ...] = field(default=())
    problem: str = ""


def discover(sources: Iterable[str]) -> list[SourceFile]:
    """Every video that `sources` name, once each, sorted by path.

    A source is a folder or an object store's prefix, searched to the bottom for names with a video's suffix, hidden
    ones passed over (links are followed, and loops of them are harmless); a list (`.jsonl`, a line a video, see
    `captions`); or a file, outright or by a glob, taken whatever it is called.
    Raises UserError for a source that names nothing, and for a captions file or a list that cannot be understood.
    """
    found: dict[str, SourceFile] = {}
    texts = CaptionFiles()
    for source in sources:
        files = list(_expand(source, texts))
        for name, file in files:
            found.setdefault(name, file)
        if not files:
            raise UserError(
                f"no video in {source}: name a file, a glob, a list of videos ({LIST_SUFFIX}), or a folder with files "
                f"that end in {', '.join(sorted(VIDEO_SUFFIXES))}"
            )
    return sorted(found.values(), key=lambda file: file.path)


def plan(files: Iterable[SourceFile], files_per_shard: int) -> dict[str, list[SourceFile]]:
    """Shards by name, such that files with the same bytes lie in the same one.

    A file's bucket depends on its size, on a sample of its bytes where more files have that size than fit a shard, and
    on the corpus's size in powers of two, so that new files leave other shards alone. The name also covers what is in
    the shard, so that a changed file makes a new shard.
    """
    files = list(files)
    buckets = 1
    while buckets * files_per_shard < len(files):
        buckets *= 2
    alike = Counter(file.size_bytes for file in files)
    members: defaultdict[int, list[SourceFile]] = defaultdict(list)
    for file in files:
        twins = _sample(file) if alike[file.size_bytes] > files_per_shard else b""
        members[int(content_id(str(file.size_bytes), twins), 16) % buckets].append(file)
    return {shard_name(bucket, content_id(repr(shard))): shard for bucket, shard in sorted(members.items())}


def _sample(file: SourceFile) -> bytes:
    """Bytes from the middle of a file; none of one that cannot be read, which says so when it is its turn."""
    try:
        system, path = filesystem(file.path)
        with system.open_input_file(path) as stream:
            return bytes(stream.read_at(min(SAMPLE_BYTES, file.size_bytes), file.size_bytes // 2))
    except (OSError, ValueError):
        return b""


def _expand(source: str, texts: CaptionFiles) -> Iterator[tuple[str, SourceFile]]:
    """The files of a source, each with the name by which it is told from others."""
    location = absolute(source)
    system, path = filesystem(location)
    if parent(location)[1].endswith(LIST_SUFFIX) and system.get_file_info(path).type == pafs.FileType.File:
        for listed, captions in listed_videos(location):
            yield from _named(listed, captions)
    elif isinstance(system, pafs.LocalFileSystem):
        for file in _expand_local(path):
            yield os.path.realpath(file), _local_file(file, texts.of(file) if _is_text(file) else ())
    else:
        yield from _expand_remote(system, location, path, texts)


def _named(listed: str, captions: tuple[Caption, ...]) -> Iterator[tuple[str, SourceFile]]:
    """A file that a list names: accounted for even when it is not there."""
    system, path = filesystem(listed)
    if isinstance(system, pafs.LocalFileSystem):
        yield os.path.realpath(path), _local_file(path, captions)
        return
    info = system.get_file_info(path)
    problem = "" if info.type == pafs.FileType.File else "is not there"
    yield listed, SourceFile(listed, info.size or 0, info.mtime_ns or 0, captions, problem)


def _expand_remote(
    system: pafs.FileSystem, location: str, path: str, texts: CaptionFiles
) -> Iterator[tuple[str, SourceFile]]:
    found = system.get_file_info(path)
    infos = [found] if found.type == pafs.FileType.File else []
    if found.type == pafs.FileType.Directory:
        infos = system.get_file_info(pafs.FileSelector(path, recursive=True))
    for info in infos:
        below = info.path.removeprefix(path).lstrip("/")
        hidden = any(part.startswith(".") for part in below.split("/"))
        if info.type == pafs.FileType.File and not hidden and (not below or _is_video(info.base_name)):
            uri = join(location, below) if below else location
            yield uri, SourceFile(uri, info.size or 0, info.mtime_ns or 0, texts.of(uri))


def _expand_local(path: str) -> Iterator[str]:
    if os.path.isdir(path):
        yield from _walk(path)
    elif os.path.lexists(path):
        yield path
    else:
        for match in sorted(glob.iglob(path, recursive=True)):
            yield from _walk(match) if os.path.isdir(match) else [match]


def _walk(folder: str) -> Iterator[str]:
    """Video files below `folder`; a folder that cannot be listed is yielded itself, to be accounted for."""
    entered: set[tuple[int, int]] = set()
    unlisted: list[str] = []
    for place, folders, names in os.walk(folder, followlinks=True, onerror=lambda e: unlisted.append(e.filename)):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and _is_video(name):
                yield os.path.join(place, name)
    yield from unlisted


def _is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _local_file(path: str, captions: tuple[Caption, ...]) -> SourceFile:
    if not _is_text(path):
        shown = os.fsencode(path).decode(errors="replace")
        return SourceFile(shown, -1, 0, (Caption("filename", words(shown)),), UNREADABLE_NAME)
    try:
        status = os.stat(path)
        size_bytes, modified_ns = status.st_size, status.st_mtime_ns
    except OSError:
        size_bytes, modified_ns = -1, 0
    return SourceFile(path, size_bytes, modified_ns, captions)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
