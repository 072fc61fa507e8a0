"""Files that are named one by one, by a person or by a list: where they are, and what lies beside them."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

import pyarrow.fs as pafs

from mimir_ray.curation.sources.captions import CaptionsFile, Names, Said
from mimir_ray.curation.sources.catch import TEXTS, Catch
from mimir_ray.curation.sources.listing import Entry, entries, entry_of, entry_of_info, shown_path
from mimir_ray.curation.sources.lists import CAPTIONS_FILES, PROMPT_NAMES, VIDEO_NAMES
from mimir_ray.curation.sources.notes import Notes
from mimir_ray.storage import READERS, filesystem, join, member_of, parent

_BESIDE = (*CAPTIONS_FILES, *VIDEO_NAMES, *PROMPT_NAMES)
GONE = "is not there"


def catches(wanted: Mapping[str, Said], notes: Notes) -> Iterator[Catch]:
    """The wanted files, by location, with what lies beside them; those that are not there have that problem."""
    local: defaultdict[str, dict[str, Said]] = defaultdict(dict)
    archives: defaultdict[str, dict[str, Said]] = defaultdict(dict)
    stores: defaultdict[str, dict[str, Said]] = defaultdict(dict)
    for location, said in wanted.items():
        if member := member_of(location):
            archives[member.archive][location] = said
        elif isinstance(filesystem(location)[0], pafs.LocalFileSystem):
            local[os.path.dirname(location)][location] = said
        else:
            stores[_top(location)][location] = said
    for folder, here in local.items():
        yield _in_folder(folder, here)
    for archive, here in archives.items():
        yield _in_archive(archive, here, notes)
    for here in stores.values():
        yield _in_store(here)


def above(folder: str) -> Iterator[CaptionsFile]:
    """The `captions.jsonl` of the folders above a folder, which may speak of what lies in it."""
    while True:
        folder, last = parent(folder)
        if not last:
            return
        location = join(folder, CAPTIONS_FILES[0])
        system, path = filesystem(location)
        if system.get_file_info(path).type == pafs.FileType.File:
            yield CaptionsFile(location, folder)


def actual(path: str) -> str | None:
    """A path of this machine as its file is really called: another Unicode form or case, where one alone fits."""
    if os.path.lexists(path):
        return path
    folder, name = os.path.split(path)
    real = actual(folder) if name else None
    if real is None:
        return None
    try:
        alike = _names(real, os.stat(real).st_mtime_ns).like([name])
    except OSError:
        return None
    return os.path.join(real, alike) if alike else None


@lru_cache(maxsize=256)
def _names(folder: str, modified_ns: int) -> Names:
    """What lies in a folder that was last changed then."""
    return Names(frozenset(os.listdir(folder)))


def _in_folder(folder: str, wanted: Mapping[str, Said]) -> Catch:
    shown = {shown_path(location): said for location, said in wanted.items()}
    catch = Catch(os.path.realpath(folder), whole=False, given=shown)
    stems = {os.path.splitext(location)[0] for location in wanted}
    beside = {stem + suffix for stem in stems for suffix in TEXTS} | {os.path.join(folder, name) for name in _BESIDE}
    there = [location for location in sorted(beside - wanted.keys()) if os.path.isfile(location)]
    catch.take((entry_of(location, os.path.basename(location)) for location in (*wanted, *there)), shown)
    catch.lists.extend(above(catch.place))
    return catch


def _in_archive(archive: str, wanted: Mapping[str, Said], notes: Notes) -> Catch:
    """Members by name: where they lie in the archive is looked up."""
    names = {member.name: said for location, said in wanted.items() if (member := member_of(location))}
    found = list(entries(archive, "", notes))
    here = {entry.location: names[entry.below] for entry in found if entry.below in names}
    catch = Catch(archive, whole=False, given=here)
    catch.take(found, here)
    gone = names.keys() - {entry.below for entry in found}
    catch.videos |= {join(archive, name): Entry(f"tar://{name}::{archive}", name, -1, 0, GONE) for name in sorted(gone)}
    catch.lists.extend(above(archive))
    return catch


def _in_store(wanted: Mapping[str, Said]) -> Catch:
    """Few files are asked for one by one; many are looked up in one listing of the folder that holds them all."""
    folders = {parent(location)[0] for location in wanted}
    place = _common(folders)
    catch = Catch(place, whole=False)
    if len(wanted) > READERS:
        found = list(entries(place, "", Notes()))
    else:
        asked = [*wanted, *(join(folder, name) for folder in folders for name in CAPTIONS_FILES)]
        for folder, name in map(parent, wanted):
            asked += [join(folder, os.path.splitext(name)[0] + suffix) for suffix in TEXTS]
        found = [entry for location in dict.fromkeys(asked) if (entry := _asked(location, place))]
    names = Names(frozenset(entry.location for entry in found))
    there = {location: names.like([location]) for location in wanted}
    catch.given = {meant or location: wanted[location] for location, meant in there.items()}
    catch.take(found, catch.given)
    for location in [location for location, meant in there.items() if meant is None]:
        catch.videos[location] = Entry(location, _below(location, place), 0, 0, GONE)
    catch.lists.extend(above(place))
    return catch


def _asked(location: str, place: str) -> Entry | None:
    system, path = filesystem(location)
    info = system.get_file_info(path)
    return entry_of_info(info, location, _below(location, place)) if info.type == pafs.FileType.File else None


def _below(location: str, place: str) -> str:
    parts: list[str] = []
    while location != place:
        location, name = parent(location)
        if not name:
            break
        parts.append(name)
    return "/".join(reversed(parts))


def _top(location: str) -> str:
    folder, name = parent(location)
    while name:
        folder, name = parent(folder)
    return folder


def _common(folders: Iterable[str]) -> str:
    """The deepest folder that holds all of these."""
    chains = []
    for folder in folders:
        chain = [folder]
        while parent(chain[-1])[1]:
            chain.append(parent(chain[-1])[0])
        chains.append(chain[::-1])
    shared: list[str] = [level[0] for level in zip(*chains, strict=False) if len(set(level)) == 1]
    return shared[-1]
