"""Files to find, and what is said of them."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimir_ray.curation.sources import Discovery, SourceFile, captions_of_source, discover
from mimir_ray.storage import parent


def touch(*paths: Path) -> None:
    """Files with their names as bytes, and the folders that they lie in."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)


def lines(file: Path, *rows: Any, encoding: str = "utf-8") -> Path:
    """A file of JSON lines."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding=encoding)
    return file


def tar(file: Path, members: Mapping[str, str | bytes]) -> Path:
    """A tar archive."""
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            data = data.encode() if isinstance(data, str) else data
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file


def found(*sources: Path | str, out: str = "") -> Discovery:
    """What `discover` finds."""
    return discover([str(source) for source in sources], out)


def files_in(*sources: Path | str) -> list[SourceFile]:
    """The files that `discover` finds."""
    return found(*sources).files


def texts(*sources: Path | str) -> dict[str, list[str]]:
    """The texts of the captions of each file, by its name."""
    files = files_in(*sources)
    return {parent(file.path)[1]: [caption.text for caption in captions_of_source(file)] for file in files}
