"""Whose captions are whose: rows of lists, and the videos that they mean."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from mimir_ray.curation.sources.listing import lies_in
from mimir_ray.curation.sources.lists import listed_videos
from mimir_ray.curation.sources.notes import Notes
from mimir_ray.curation.sources.row import Caption, GivenSpan, Listed, unique
from mimir_ray.storage import absolute, join, member_of, parent


@dataclass(frozen=True, slots=True)
class CaptionsFile:
    """A list that says something of the videos below `folder`. `prompts` is the other half of a `videos.txt`."""

    location: str
    folder: str
    prompts: str | None = None


@dataclass(slots=True)
class Said:
    """All that lists say of one video, row by row. What is said twice counts once."""

    rows: list[Listed] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(row.captions or row.spans for row in self.rows)

    @property
    def captions(self) -> tuple[Caption, ...]:
        """The captions of the whole video, in the order of the rows."""
        return unique(caption for row in self.rows for caption in row.captions)

    @property
    def spans(self) -> tuple[GivenSpan, ...]:
        """The spans, first to last, each with the captions of all rows that ask for it."""
        found: defaultdict[tuple[float, float], list[Caption]] = defaultdict(list)
        for span in (span for row in self.rows for span in row.spans):
            found[span.start_s, span.end_s] += span.captions
        return tuple(GivenSpan(*place, unique(found[place])) for place in sorted(found))


@dataclass
class Names:
    """Names of files, by what a person or another system may write for them."""

    names: frozenset[str]
    _alike: list[dict[str, str | None]] = field(default_factory=list)

    def like(self, wanted: Sequence[str]) -> str | None:
        """The first of `wanted` that is a name; else the one name that is the same in another Unicode form, else in
        another case of letters. None where there is none, or several are alike.
        """
        for name in wanted:
            if name in self.names:
                return name
        for place, form in enumerate(_FORMS):
            if len(self._alike) == place:
                alike: dict[str, str | None] = {}
                for name in self.names:
                    same = form(name)
                    alike[same] = None if same in alike else name
                self._alike.append(alike)
            for name in wanted:
                if form(name) in self._alike[place]:
                    return self._alike[place][form(name)]
        return None


def written(path: str, folder: str) -> Iterator[str]:
    """Where the video of a row may be: absolute paths and URIs as they are, others from the list's folder.

    Options such as `?endpoint_override=...` are the folder's, where the row has none.
    """
    for way in (path, path.replace("\\", "/")) if "\\" in path else (path,):
        if member_of(way) or not ("://" in way or os.path.isabs(way)):
            yield absolute(way) if member_of(way) else join(folder, os.path.normpath(way))
            continue
        location = absolute(way)
        options = folder.partition("?")[2] if "://" in location else ""
        yield f"{location}?{options}" if options and "?" not in location else location
        if "://" not in location:
            yield join(os.path.realpath(os.path.dirname(location)), os.path.basename(location))


def match(files: Iterable[CaptionsFile], names: Names, place: str, whole: bool, notes: Notes) -> dict[str, Said]:
    """What captions files say of videos, by the location of the video: the nearest one that names it is heard.

    Files of one folder are heard together. `names` are the videos below `place`; lines for videos that should lie
    there and do not are noted where these are the `whole` of them, and so are videos without a line.
    """
    said: dict[str, Said] = {}
    heard: dict[str, CaptionsFile] = {}
    for folder, group in groupby(sorted(files, key=lambda file: (len(file.folder), file.folder)), key=_folder):
        here: dict[str, Said] = {}
        for file in group:
            matched = False
            for row in listed_videos(file.location, file.prompts):
                if location := names.like(list(written(row.path, folder))):
                    here.setdefault(location, Said()).rows.append(row)
                    matched = True
                elif whole and any(_lies_in(way, place) for way in (folder, *written(row.path, folder))):
                    notes.add("unmatched_lines", file.location, row.path)
            if matched or _lies_in(folder, place):
                heard[folder] = file
        said |= here
    for location in sorted(names.names - said.keys()) if heard else ():
        if above := _above(location, heard):
            notes.add("without_line", above.location, location)
    return said


def _above(location: str, heard: Mapping[str, CaptionsFile]) -> CaptionsFile | None:
    """The nearest file that could have named a video."""
    while location:
        location, name = parent(location)
        if location in heard:
            return heard[location]
        if not name:
            break
    return None


def _lies_in(location: str, folder: str) -> bool:
    return lies_in(_same(location), _same(folder))


def _folder(file: CaptionsFile) -> str:
    return file.folder


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _same(text: str) -> str:
    return _composed(_composed(text).casefold())


_FORMS: Sequence[Callable[[str], str]] = (_composed, _same)
