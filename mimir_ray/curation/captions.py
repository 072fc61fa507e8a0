"""What is said about videos before anybody has looked at them: captions files, text files, names.

A captions file, `captions.jsonl` in the folder of the videos or above it, and a list of videos, `.jsonl` by any other
name, have a line a video; paths are relative to the file, and `captions` may be left out of a list:

    {"path": "a/b.mp4", "captions": [{"kind": "long", "text": "..."}]}
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from mimir_ray.config import UserError
from mimir_ray.records import CaptionKind
from mimir_ray.storage import exists, join, parent, read_bytes

CAPTIONS_FILE = "captions.jsonl"
EXAMPLE = '{"path": "a/b.mp4", "captions": [{"kind": "long", "text": "..."}]}'


@dataclass(frozen=True, slots=True)
class Caption:
    """One text that describes a clip, and where it comes from."""

    kind: str
    text: str


class CaptionFiles:
    """Captions of videos: from the nearest `captions.jsonl` that names them, from `<stem>.txt`, or from their name."""

    def __init__(self) -> None:
        self._by_folder: dict[str, dict[str, tuple[Caption, ...]]] = {}

    def of(self, video: str) -> tuple[Caption, ...]:
        """The captions of the video at this path or URI; there is always one at least."""
        home, name = parent(video)
        folder, below = home, name
        while True:
            if captions := self._in(folder).get(below):
                return captions
            folder, last = parent(folder)
            if not last:
                break
            below = f"{last}/{below}"
        text = _text(join(home, os.path.splitext(name)[0] + ".txt"))
        return (Caption("user", text),) if text else (Caption("filename", words(name)),)

    def _in(self, folder: str) -> dict[str, tuple[Caption, ...]]:
        if folder not in self._by_folder:
            file = join(folder, CAPTIONS_FILE)
            self._by_folder[folder] = dict(_lines(file)) if exists(file) else {}
        return self._by_folder[folder]


def listed_videos(file: str) -> Iterator[tuple[str, tuple[Caption, ...]]]:
    """Path or URI and captions of every video in a list. Raises UserError for a line that cannot be understood."""
    folder, files = parent(file)[0], CaptionFiles()
    for path, captions in _lines(file):
        video = path if os.path.isabs(path) or "://" in path else join(folder, path)
        yield video, captions or files.of(video)


def words(name: str) -> str:
    """A file's name as words: `arm_wrestling-2.mp4` says "arm wrestling 2"."""
    stem = os.path.splitext(name)[0]
    return " ".join(re.sub(r"[\W_]+", " ", stem).split()) or "video"


def _lines(file: str) -> Iterator[tuple[str, tuple[Caption, ...]]]:
    for number, line in enumerate(read_bytes(file).decode(errors="replace").splitlines(), start=1):
        if line.strip():
            yield _parse(line, f"{file}, line {number}")


def _parse(line: str, where: str) -> tuple[str, tuple[Caption, ...]]:
    try:
        row: Any = json.loads(line)
        captions = tuple(Caption(str(item["kind"]), str(item["text"])) for item in row.get("captions", ()))
        path = row["path"] if "://" in row["path"] else os.path.normpath(row["path"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: {error!r}; write one object a line: {EXAMPLE}") from None
    for caption in captions:
        if caption.kind not in get_args(CaptionKind):
            raise UserError(f"{where}: kind {caption.kind!r} is not one of {', '.join(get_args(CaptionKind))}")
        if not caption.text.strip():
            raise UserError(f"{where}: a caption of {path} is empty; leave it out")
    return path, captions


def _text(file: str) -> str:
    try:
        return " ".join(read_bytes(file).decode(errors="replace").split())
    except OSError:
        return ""


def captions_of(clip: Mapping[str, Any]) -> list[dict[str, str]]:
    """The captions of a clip: the one that a model wrote, if one did, as the long one, and those that came with it.

    A long caption that came with the video is then the user's.
    """
    given = [dict(caption) for caption in clip["captions"]]
    if not clip.get("recaption"):
        return given
    for caption in given:
        caption["kind"] = "user" if caption["kind"] == "long" else caption["kind"]
    return [{"kind": "long", "text": clip["recaption"]}, *given]
