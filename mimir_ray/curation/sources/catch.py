"""What lies together in one place: videos, texts beside them, and lists that speak of them."""

import os
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mimir_ray.curation.sources.captions import CaptionsFile, Names, Said, match
from mimir_ray.curation.sources.file import SourceFile
from mimir_ray.curation.sources.listing import Entry, shown_path
from mimir_ray.curation.sources.lists import PROMPT_NAMES, VIDEO_NAMES, is_captions_file
from mimir_ray.curation.sources.notes import Notes
from mimir_ray.storage import join, parent

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for names in ("3gp asf avi f4v flv gif m2ts m2v m4v mkv mov mp4", "mpeg mpg mts mxf ogv qt ts vob webm wmv y4m")
    for name in names.split()
)
TEXTS = (".txt", ".json")
"""The endings that stand in place of a video's: the first file that is there is read."""


def is_video(name: str) -> bool:
    """Whether a file of a folder is taken for a video, by its name."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


@dataclass
class Catch:
    """The files of a place, sorted by what they are for. They are known by their path from it, which `place` is before.

    `whole` tells a place that was searched from one in which some files are named; `given` is what lists said of those.
    """

    place: str
    whole: bool
    videos: dict[str, Entry] = field(default_factory=dict)
    given: Mapping[str, Said] = field(default_factory=dict)
    lists: list[CaptionsFile] = field(default_factory=list)
    _texts: dict[str, Entry] = field(default_factory=dict)
    _others: list[Entry] = field(default_factory=list)

    def take(self, found: Iterable[Entry], wanted: Container[str] | None = None) -> None:
        """Sort files; of videos only the `wanted` ones, by location, whatever they are called."""
        for entry in found:
            name = parent(join(self.place, entry.below))[1]
            if (is_video(name) if wanted is None else entry.location in wanted) or entry.in_part:
                self.videos[join(self.place, entry.below)] = entry
            elif name.lower().endswith(TEXTS):
                stem, suffix = os.path.splitext(entry.below)
                self._texts[stem + suffix.lower()] = entry
            else:
                self._others.append(entry)
        self._find_lists()

    def files(self, notes: Notes) -> Iterator[SourceFile]:
        """The videos with what is said of them; what else lies there is noted if it is the whole.

        Raises UserError for a list that cannot be understood.
        """
        open_to_lists = frozenset(
            key for key, entry in self.videos.items() if not entry.problem and not self.given.get(entry.location)
        )
        said = match(self.lists, Names(open_to_lists), self.place, self.whole, notes)
        read: set[str] = set()
        for key, entry in self.videos.items():
            of_it = self.given.get(entry.location) or said.get(key) or Said()
            captions = of_it.captions
            text = None if captions else self._text_of(entry)
            if text:
                read.add(text.location)
            yield SourceFile(
                entry.location,
                entry.size_bytes,
                entry.modified_ns,
                captions,
                of_it.spans,
                text.location if text else "",
                text.modified_ns if text else 0,
                entry.problem,
            )
        if self.whole:
            unread = (text for text in self._texts.values() if text.location not in read)
            for entry in (*self._others, *unread):
                notes.add("passed_over", _suffix(entry.below), shown_path(entry.location))

    def _text_of(self, entry: Entry) -> Entry | None:
        stem = os.path.splitext(entry.below)[0]
        return next((text for suffix in TEXTS if (text := self._texts.get(stem + suffix))), None)

    def _find_lists(self) -> None:
        """Take the lists out of what is no video."""
        others, self._others = self._others, []
        for entry in others:
            if is_captions_file(entry.location):
                self.lists.append(CaptionsFile(entry.location, parent(join(self.place, entry.below))[0]))
            else:
                self._others.append(entry)
        for below in [below for below in self._texts if os.path.basename(below) in VIDEO_NAMES]:
            folder = os.path.dirname(below)
            prompts = next((name for name in PROMPT_NAMES if os.path.join(folder, name) in self._texts), None)
            if prompts and below in self._texts:
                videos, texts = self._texts.pop(below), self._texts.pop(os.path.join(folder, prompts))
                place = parent(join(self.place, below))[0]
                self.lists.append(CaptionsFile(videos.location, place, texts.location))


def _suffix(below: str) -> str:
    """The ending by which a file that is passed over is counted."""
    name = os.path.basename(shown_path(below)).lower()
    stem, suffix = os.path.splitext(name)
    inner = os.path.splitext(stem)[1]
    return (inner if inner == ".tar" else "") + suffix or "without a suffix"
