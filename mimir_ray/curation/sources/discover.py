"""Which files there are to curate, and what is said about them."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow.fs as pafs

from mimir_ray.config import UserError
from mimir_ray.curation.sources.captions import Said, written
from mimir_ray.curation.sources.catch import VIDEO_SUFFIXES, Catch
from mimir_ray.curation.sources.file import SourceFile
from mimir_ray.curation.sources.listing import entries, is_tar, lies_in
from mimir_ray.curation.sources.lists import CAPTIONS_FILES, LIST_SUFFIXES, PROMPT_NAMES, is_list, listed_videos
from mimir_ray.curation.sources.named import GONE, above, actual, catches
from mimir_ray.curation.sources.notes import Notes
from mimir_ray.storage import absolute, exists, filesystem, join, member_of, parent


@dataclass(frozen=True, slots=True)
class Discovery:
    """The files to curate, sorted by path, and what was found beside them and not taken."""

    files: list[SourceFile]
    notes: Notes


def discover(sources: Sequence[str], out: str = "") -> Discovery:
    """Every video that `sources` name, once each; what lies below the data root `out` is passed over.

    A source is a folder or an object store's prefix, searched to the bottom for names with a video's suffix and for
    tars, hidden ones passed over (links are followed, and loops of them are harmless); a tar; a list (see `lists`); or
    a file, outright or by a glob, taken whatever it is called. What lists beside and above the videos say of them goes
    along, and the nearest one counts.
    Raises UserError for a source that names nothing, and for a list that cannot be understood.
    """
    found: dict[str, SourceFile] = {}
    notes, out = Notes(), absolute(out) if out else ""
    named: dict[str, Said] = {}
    searched: list[tuple[str, str]] = []
    held: Counter[str] = Counter()
    for source in sources:
        for place, whole in _places(absolute(source)):
            if _lies_in(place, out) and not _lies_in(absolute(source), out):
                notes.add("output", "", place)
            elif whole:
                searched.append((place, source))
            elif is_list(parent(place)[1]):
                held[source] += _take_list(place, named)
            else:
                named.setdefault(place, Said())
                held[source] += 1
    for catch in catches(named, notes):  # first: who names a file has more to say of it than who names its folder
        for file in catch.files(notes):
            found.setdefault(_identity(file.path), file)
            if file.problem == GONE:
                notes.add("not_there", "", file.path)
    for place, source in searched:
        for file in _searched(place, out, notes).files(notes):
            found.setdefault(_identity(file.path), file)
            held[source] += 1
    for source in sources:
        if not held[source]:
            raise UserError(
                f"no video in {source}: name a file, a glob, a list of videos ({', '.join(LIST_SUFFIXES)}), or a "
                f"folder with files that end in {', '.join(sorted(VIDEO_SUFFIXES))}"
            )
    return Discovery(sorted(found.values(), key=lambda file: file.path), notes)


def _places(location: str) -> Iterator[tuple[str, bool]]:
    """The locations that a source names, and whether each is to be searched: folders and tars are."""
    if member_of(location):
        yield location, False
        return
    system, path = filesystem(location)
    kind = system.get_file_info(path).type
    if isinstance(system, pafs.LocalFileSystem):
        named = os.path.lexists(path)
        for file in [path] if named else sorted(glob.iglob(path, recursive=True)):
            if not named and os.path.basename(file) in CAPTIONS_FILES:
                continue  # it is heard for the videos that lie there
            yield file, os.path.isdir(file) or (os.path.isfile(file) and is_tar(file))
    elif kind != pafs.FileType.NotFound:
        yield location, kind == pafs.FileType.Directory or is_tar(parent(location)[1])


def _searched(place: str, out: str, notes: Notes) -> Catch:
    """All that lies below a place."""
    local = "://" not in place
    catch = Catch(os.path.realpath(place) if local else place, whole=True)
    catch.take(entries(place, "" if _lies_in(place, out) else out, notes))
    catch.lists.extend(above(catch.place))
    return catch


def _take_list(file: str, named: dict[str, Said]) -> int:
    """Add what a list names to `named`, rows of one video together; how many paths. Raises UserError."""
    folder, name = parent(file)
    prompts = [join(folder, other) for other in PROMPT_NAMES if name.endswith(".txt")]
    where: dict[str, str] = {}
    for row in listed_videos(file, next(filter(exists, prompts), None)):
        if row.path not in where:
            where[row.path] = _located(row.path, folder)
        named.setdefault(where[row.path], Said()).rows.append(row)
    return len(where)


def _located(path: str, folder: str) -> str:
    """Where a row's video is, or would be."""
    ways = list(written(path, folder))
    local = [way for way in ways if "://" not in way]
    return next((real for way in local if (real := actual(way))), ways[-1])


def _identity(path: str) -> str:
    """The path by which one file is told from another, whatever it was named by."""
    if member := member_of(path):
        return f"{member.name}::{_real(member.archive)}"
    return _real(path)


def _lies_in(location: str, folder: str) -> bool:
    return bool(folder) and lies_in(_real(location), _real(folder))


def _real(location: str) -> str:
    return location if "://" in location else os.path.realpath(location)
