"""Which files there are to curate, what is said about them, and how they are cut into shards of work."""

import glob
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from mimir_ray.config import UserError
from mimir_ray.records import CaptionKind
from mimir_ray.storage import absolute, content_id

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for names in ("3gp avi flv m2ts m4v mkv mov mp4", "mpeg mpg mts ogv ts webm wmv y4m")
    for name in names.split()
)
CAPTIONS_FILE = "captions.jsonl"
UNREADABLE_NAME = "its name is not UTF-8: rename it"


@dataclass(frozen=True)
class Caption:
    """One text that describes a clip, and where it comes from."""

    kind: str
    text: str


@dataclass(frozen=True)
class SourceFile:
    """A file to curate. `problem` says why it cannot even be tried, or is empty."""

    path: str
    size_bytes: int
    modified_ns: int
    captions: tuple[Caption, ...] = field(default=())
    problem: str = ""


def discover(sources: Iterable[str]) -> list[SourceFile]:
    """Every video that `sources` (folders, files, globs) name, once each, sorted by path.

    Folders are searched to the bottom for names with a video's suffix, hidden ones passed over; links are followed,
    and loops of them are harmless. Files named outright or by a glob are taken whatever they are called.
    Raises UserError for a source that names nothing, and for a captions file that cannot be understood.
    """
    found: dict[str, str] = {}
    for source in sources:
        paths = list(_expand(source))
        for path in paths:
            found.setdefault(os.path.realpath(path), path)
        if not paths:
            raise UserError(
                f"no video in {source}: name a file, a glob, or a folder with files that end in "
                f"{', '.join(sorted(VIDEO_SUFFIXES))}"
            )
    texts = _CaptionFiles()
    return [_source_file(path, texts) for path in sorted(found.values())]


def plan(files: Iterable[SourceFile], files_per_shard: int) -> dict[str, list[SourceFile]]:
    """Shards by name. A file's bucket depends on its path and on the corpus's size in powers of two, so that new files
    leave other shards alone; the name also covers what is in the shard, so that a changed file makes a new shard."""
    files = list(files)
    buckets = 1
    while buckets * files_per_shard < len(files):
        buckets *= 2
    members: defaultdict[int, list[SourceFile]] = defaultdict(list)
    for file in files:
        members[int(content_id(file.path), 16) % buckets].append(file)
    return {f"{bucket:05d}-{content_id(repr(shard))}": shard for bucket, shard in sorted(members.items())}


def _expand(source: str) -> Iterator[str]:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) and not source.startswith("file://"):
        raise UserError(f"{source} is not on this machine's file system: mount or copy it and name the folder")
    path = absolute(source)
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
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=lambda e: unlisted.append(e.filename)):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES:
                yield os.path.join(parent, name)
    yield from unlisted


def _source_file(path: str, texts: "_CaptionFiles") -> SourceFile:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="replace")
        return SourceFile(shown, -1, 0, (Caption("filename", _words(shown)),), UNREADABLE_NAME)
    try:
        status = os.stat(path)
        size_bytes, modified_ns = status.st_size, status.st_mtime_ns
    except OSError:
        size_bytes, modified_ns = -1, 0
    return SourceFile(path, size_bytes, modified_ns, texts.of(path))


class _CaptionFiles:
    """Captions of videos: from the nearest `captions.jsonl` that names them, from `<stem>.txt`, or from their name."""

    def __init__(self) -> None:
        self._by_folder: dict[Path, dict[str, tuple[Caption, ...]]] = {}

    def of(self, path: str) -> tuple[Caption, ...]:
        file = Path(path)
        for folder in file.parents:
            listed = self._in(folder)
            if listed and (captions := listed.get(str(file.relative_to(folder)))):
                return captions
        text_file = file.with_suffix(".txt")
        try:
            text = " ".join(text_file.read_text(encoding="utf-8", errors="replace").split())
        except OSError:
            text = ""
        return (Caption("user", text),) if text else (Caption("filename", _words(file.name)),)

    def _in(self, folder: Path) -> dict[str, tuple[Caption, ...]]:
        if folder not in self._by_folder:
            file = folder / CAPTIONS_FILE
            self._by_folder[folder] = _load_captions(file) if file.is_file() else {}
        return self._by_folder[folder]


def _load_captions(file: Path) -> dict[str, tuple[Caption, ...]]:
    loaded: dict[str, tuple[Caption, ...]] = {}
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                path, captions = _parse_caption_line(line, f"{file}, line {number}")
                loaded[path] = captions
    return loaded


def _parse_caption_line(line: str, where: str) -> tuple[str, tuple[Caption, ...]]:
    example = '{"path": "a/b.mp4", "captions": [{"kind": "long", "text": "..."}]}'
    try:
        row: Any = json.loads(line)
        captions = tuple(Caption(str(item["kind"]), str(item["text"])) for item in row["captions"])
        path = os.path.normpath(row["path"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: {error!r}; write one object a line: {example}") from None
    for caption in captions:
        if caption.kind not in get_args(CaptionKind):
            raise UserError(f"{where}: kind {caption.kind!r} is not one of {', '.join(get_args(CaptionKind))}")
        if not caption.text.strip():
            raise UserError(f"{where}: a caption of {path} is empty; leave it out")
    return path, captions


def _words(name: str) -> str:
    """A file's name as words: `arm_wrestling-2.mp4` says "arm wrestling 2"."""
    stem = os.path.splitext(name)[0]
    return " ".join(re.sub(r"[\W_]+", " ", stem).split()) or "video"
