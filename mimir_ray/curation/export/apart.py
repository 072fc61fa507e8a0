"""Where a folder of exported clips may lie: not where a curation would find it again."""

import fnmatch
import glob
import os
from collections.abc import Iterable

from mimir_ray.config import UserError
from mimir_ray.curation.export.folder import CAPTIONS_FILE
from mimir_ray.storage import absolute, below, join, parent


def require_apart(folder: str, sources: Iterable[str], out: str) -> None:
    """Raise UserError where the next curation of these sources would find the exported files, or take the captions
    beside them for those of the sources. What lies below the data root `out` is passed over there.
    """
    for source in sources:
        inside, around = _found_by(source, folder), lies_in(source, folder)
        if inside and (around or not lies_in(folder, out) or lies_in(source, out)):
            raise UserError(
                f"the export {folder} lies in the source {source}, whose next curation would take its files for "
                f"videos; name a folder elsewhere, or one below the data root, such as {join(out, 'export')}"
            )
        if around:
            raise UserError(
                f"the source {source} lies in the export {folder}, whose {CAPTIONS_FILE} would be taken for that of "
                f"the source; name a folder elsewhere, such as {join(out, 'export')}"
            )


def lies_in(location: str, folder: str) -> bool:
    """Whether a location is a folder or lies below it, wherever links lead."""
    location, folder = _real(location), _real(folder)
    return location == folder or below(folder, location) != location


def _found_by(source: str, folder: str) -> bool:
    """Whether a search of the source comes to the folder. A glob is taken to find rather more than it does."""
    if not glob.has_magic(source):
        return lies_in(folder, source)
    pattern = absolute(source)
    for place in (absolute(folder), _real(folder)):
        places = [join(place, "video", "clip.mp4"), place]
        while parent(places[-1])[1]:
            places.append(parent(places[-1])[0])
        if any(fnmatch.fnmatch(place, pattern) and _as_deep(place, pattern) for place in places):
            return True
    return False


def _as_deep(place: str, pattern: str) -> bool:
    """Whether a pattern leads as deep as a place lies: of its stars only double ones pass a slash."""
    return "**" in pattern or place.count("/") == pattern.count("/")


def _real(location: str) -> str:
    location = absolute(location)
    return location.rstrip("/") if "://" in location else os.path.realpath(location)
