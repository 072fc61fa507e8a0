"""A folder of exported clips: the names in it, and what is there."""

import os
import unicodedata
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from mimir_ray.storage import Table, filesystem, join, parent

CAPTIONS_FILE = "captions.jsonl"
EXPORTS = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("file", pa.string()),  # below the folder
        pa.field("made", pa.string()),  # `copied` or `encoded`; null of one that is not there
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
_VERSION = 1
_STEM_BYTES = 80


def exports_table(folder: str) -> Table:
    """What was written to a folder. It is hidden, so that who curates the folder does not come across it."""
    return Table(join(folder, ".exports"), EXPORTS, _VERSION)


def file_of(clip: Mapping[str, Any]) -> str:
    """The name of a clip's file below the folder: letters and digits of any script, good for every file system."""
    stem = unicodedata.normalize("NFC", os.path.splitext(parent(clip["path"])[1])[0])
    letters = "".join(character if unicodedata.category(character)[0] in "LMN" else "_" for character in stem)
    words = "_".join(filter(None, letters.split("_")))
    video = words.encode()[:_STEM_BYTES].decode(errors="ignore").rstrip("_") or "video"
    return f"{video}_{clip['video_id'][:8]}/{clip['start_s']:09.3f}-{clip['end_s']:09.3f}_{clip['clip_id']}.mp4"


def there(folder: str, files: Collection[str]) -> set[str]:
    """The files, of these below a folder, that exist."""
    system, path = filesystem(folder)
    infos = system.get_file_info([f"{path}/{file}" for file in files])
    return {file for file, info in zip(files, infos, strict=True) if info.type == pafs.FileType.File}


def remove(folder: str, files: Collection[str]) -> None:
    """Delete files below a folder, and folders of videos that are empty then."""
    system, path = filesystem(folder)
    for file in sorted(there(folder, files)):
        system.delete_file(f"{path}/{file}")
        if isinstance(system, pafs.LocalFileSystem):
            with suppress(OSError):  # it is not empty
                os.rmdir(os.path.dirname(f"{path}/{file}"))
