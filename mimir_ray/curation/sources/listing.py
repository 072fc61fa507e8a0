"""Every file below a place: of a folder, an object store's prefix, or a tar archive."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.fs as pafs

from mimir_ray.curation.sources.notes import Notes
from mimir_ray.storage import ahead, filesystem, join, member_of, members, parent

TAR_SUFFIX = ".tar"
UNREADABLE_NAME = "its name is not UTF-8: rename it"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that was found. `below` is its path from the place that was searched; an archive is a folder in it."""

    location: str
    below: str
    size_bytes: int
    modified_ns: int
    problem: str = ""
    in_part: bool = False
    """Whether not all that lies in a folder or an archive could be listed."""


def entries(place: str, out: str, notes: Notes) -> Iterator[Entry]:
    """Every file at or below `place`, a location, with those in tars; one that cannot be listed has its problem.

    Hidden files and folders and what lies below `out` is passed over and noted. Links are followed; loops of them are
    harmless.
    """
    system, path = filesystem(place)
    local = isinstance(system, pafs.LocalFileSystem)
    tars: list[Entry] = []
    for entry in _local(path, out, notes) if local else _remote(place, out, notes):
        if is_tar(parent(entry.location)[1]) and not entry.problem:
            tars.append(entry)
        else:
            yield entry
    for found in ahead(_members, tars):
        for entry in found:
            if any(part.startswith(".") for part in _inside(entry).split("/")):
                notes.add("hidden", "", entry.location)
            else:
                yield entry


def is_tar(name: str) -> bool:
    """Whether a file of this name is an archive whose members are taken."""
    return name.lower().endswith(TAR_SUFFIX)


def entry_of(location: str, below: str = "") -> Entry:
    """A file of the local file system, by name; `size_bytes` is -1 where it cannot be read."""
    if (shown := shown_path(location)) != location:
        return Entry(shown, shown_path(below), -1, 0, UNREADABLE_NAME)
    try:
        status = os.stat(location)
    except OSError:
        return Entry(location, below, -1, 0)
    return Entry(location, below, status.st_size, status.st_mtime_ns)


def entry_of_info(info: pafs.FileInfo, location: str, below: str = "") -> Entry:
    """A file of another file system."""
    return Entry(location, below, info.size or 0, info.mtime_ns or 0)


def shown_path(path: str) -> str:
    """A path that can be written down: other bytes than UTF-8 become marks."""
    return os.fsencode(path).decode(errors="replace")


def lies_in(location: str, folder: str) -> bool:
    """Whether a location is a folder or lies below it, as both are written; options such as `?...` do not matter."""
    inside = join(folder, "x")
    inside = inside.partition("?")[0] if "://" in folder else inside
    return location == folder or location.startswith(inside[:-1])


def _members(tar: Entry) -> list[Entry]:
    """The members of a tar; and the tar itself with a problem, where it cannot be read to its end."""
    found: dict[str, Entry] = {}  # of one name twice the last counts, as it does for tar
    lost: list[Entry] = []
    try:
        for member in members(*filesystem(tar.location), tar.location):
            below = shown_path(f"{tar.below}/{member.name}".lstrip("/"))
            problem = "has `::` in its name: rename it in its archive" if "::" in member.name else ""
            if (name := shown_path(member.name)) != member.name:
                member, problem = member._replace(name=name), UNREADABLE_NAME
            found[member.name] = Entry(member.location, below, member.size_bytes, tar.modified_ns, problem)
    except OSError as error:
        lost.append(Entry(tar.location, tar.below, tar.size_bytes, tar.modified_ns, str(error), in_part=True))
    return [*found.values(), *lost]


def _inside(entry: Entry) -> str:
    """The path of a member in its tar; nothing for another file."""
    member = member_of(entry.location)
    return member.name if member else ""


def _local(folder: str, out: str, notes: Notes) -> Iterator[Entry]:
    if not os.path.isdir(folder):
        yield entry_of(folder)
        return
    entered: set[tuple[int, int]] = set()
    unlisted: list[OSError] = []
    out = os.path.realpath(out) if out and "://" not in out else ""
    for place, folders, names in os.walk(folder, followlinks=True, onerror=unlisted.append):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        for name in [name for name in (*folders, *names) if name.startswith(".")]:
            notes.add("hidden", "", shown_path(os.path.join(place, name)))
        if out:
            for name in [name for name in folders if os.path.realpath(os.path.join(place, name)) == out]:
                folders.remove(name)
                _note_output(os.path.join(place, name), notes)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = os.path.relpath(place, folder)
        for name in sorted(names):
            if not name.startswith("."):
                yield entry_of(os.path.join(place, name), name if base == "." else f"{base}/{name}")
    for error in unlisted:
        location = shown_path(str(error.filename))
        yield Entry(
            location, os.path.relpath(location, folder), -1, 0, f"cannot be listed: {error.strerror}", in_part=True
        )


def _note_output(folder: str, notes: Notes) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            notes.add("output", shown_path(folder), shown_path(os.path.join(place, name)))


def _remote(place: str, out: str, notes: Notes) -> Iterator[Entry]:
    hidden = set()
    for entry in listed_at_once(place):
        parts = entry.below.split("/")
        dotted = next((index for index, part in enumerate(parts) if part.startswith(".")), None)
        if dotted is not None:
            top = join(place, *parts[: dotted + 1])
            if top not in hidden:
                hidden.add(top)
                notes.add("hidden", "", top)
        elif out and lies_in(entry.location, out):
            notes.add("output", out, entry.location)
        else:
            yield entry


def listed_at_once(place: str) -> Iterator[Entry]:
    """Every file at or below a place of a store, as it lists them: one request for a thousand."""
    system, path = filesystem(place)
    found = system.get_file_info(path)
    if found.type == pafs.FileType.File:
        yield entry_of_info(found, place)
    if found.type != pafs.FileType.Directory:
        return
    for info in sorted(system.get_file_info(pafs.FileSelector(path, recursive=True)), key=lambda info: info.path):
        below = info.path.removeprefix(path).lstrip("/")
        if info.type == pafs.FileType.File:
            yield entry_of_info(info, join(place, below), below)
