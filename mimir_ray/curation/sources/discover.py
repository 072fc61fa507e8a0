"""Which files there are to curate, and what is said about them."""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow.fs as pafs

from mimir_ray.config import UserError
from mimir_ray.curation.sources.captions import Said, written
from mimir_ray.curation.sources.catch import VIDEO_SUFFIXES, Catch
from mimir_ray.curation.sources.file import SourceFile
from mimir_ray.curation.sources.listing import entries, is_tar, shown_path
from mimir_ray.curation.sources.lists import CAPTIONS_FILES, LIST_SUFFIXES, PROMPT_NAMES, is_list, listed_videos
from mimir_ray.curation.sources.named import above, actual, catches
from mimir_ray.curation.sources.notes import Notes
from mimir_ray.storage import absolute, exists, filesystem, join, member_of, parent


@dataclass(frozen=True, slots=True)
class Discovery:
    """The files to curate, sorted by path, and what was found beside them and not taken."""

    files: list[SourceFile]
    notes: Notes


def discover(sources: Iterable[str], out: str = "") -> Discovery:
    """Every video that `sources` name, once each; what lies below the data root `out` is passed over.

    A source is a folder or an object store's prefix, searched to the bottom for names with a video's suffix and for
    tars, hidden ones passed over (links are followed, and loops of them are harmless); a tar; a list (see `lists`); or
    a file, outright or by a glob, taken whatever it is called. What lists beside and above the videos say of them goes
    along, and the nearest one counts.
    Raises UserError for a source that names nothing, and for a list that cannot be understood.
    """
    found: dict[str, SourceFile] = {}
    notes, named = Notes(), dict[str, Said]()
    out = absolute(out) if out else ""

    def keep(catch: Catch) -> int:
        files = 0
        for key, file in catch.files(notes):
            found.setdefault(_identity(file.path, key), file)
            files += 1
        return files

    def keep_named() -> None:  # in the order of the sources: the first one that has a video has its say
        for catch in catches(named, notes):
            keep(catch)
        named.clear()

    for source in sources:
        files = 0
        for place, whole in _places(absolute(source)):
            if whole:
                keep_named()
                files += keep(_searched(place, out, notes))
            elif is_list(parent(place)[1]):
                files += _take_list(place, named, notes)
            elif _lies_in(place, out) and not _lies_in(absolute(source), out):
                notes.add("output", out, place)
            else:
                named.setdefault(place, Said())
                files += 1
        if not files:
            raise UserError(
                f"no video in {source}: name a file, a glob, a list of videos ({', '.join(LIST_SUFFIXES)}), or a "
                f"folder with files that end in {', '.join(sorted(VIDEO_SUFFIXES))}"
            )
    keep_named()
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


def _take_list(file: str, named: dict[str, Said], notes: Notes) -> int:
    """Add what a list names to `named`; rows of one video together."""
    folder, name = parent(file)
    prompts = [join(folder, other) for other in PROMPT_NAMES if name.endswith(".txt")]
    said: dict[str, Said] = {}
    where: dict[str, str] = {}
    for row in listed_videos(file, next(filter(exists, prompts), None)):
        if row.path not in where:
            where[row.path] = _located(row.path, folder)
        said.setdefault(where[row.path], Said()).add(row)
    for location, of_it in said.items():
        if "://" not in location and not os.path.lexists(location):
            notes.add("not_there", file, shown_path(location))
        named.setdefault(location, of_it)
    return len(said)


def _located(path: str, folder: str) -> str:
    """Where a row's video is, or would be."""
    ways = list(written(path, folder))
    local = [way for way in ways if "://" not in way]
    return next((real for way in local if (real := actual(way))), ways[-1])


def _identity(path: str, key: str) -> str:
    """By which one file is told from another, whatever it was named by."""
    if member := member_of(path):
        return f"{member.name}::{_identity(member.archive, '')}"
    return os.path.realpath(path) if "://" not in path else path


def _lies_in(location: str, folder: str) -> bool:
    if not folder:
        return False
    if "://" in folder:
        return location == folder or location.startswith(join(folder, "x").partition("?")[0][:-1])
    return os.path.realpath(location).startswith(os.path.join(os.path.realpath(folder), "")) or (
        os.path.realpath(location) == os.path.realpath(folder)
    )
