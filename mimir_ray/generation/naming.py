"""The name of a checkpoint, part of the identity of every video it makes. Imports no torch."""

import hashlib
import os
from pathlib import Path
from typing import Any

from mimir_ray.config import UserError
from mimir_ray.model.base import check_base

_SAMPLES, _SAMPLE_BYTES = 64, 1 << 20


def name_of_runnable(checkpoint: str) -> str:
    """``model_name`` of a checkpoint that can be run. Raises UserError for any other."""
    name = model_name(checkpoint)
    check_base(checkpoint)
    return name


def model_name(checkpoint: str) -> str:
    """The name under which a checkpoint's videos are recorded: a hub id, or a directory's name and hash of its content.

    So two trainings exported to the same place never share an output, and a copy elsewhere is the same model. Of files
    above 64 MiB, 64 evenly spread MiB are hashed.

    Raises:
        UserError: a directory that is no checkpoint.
    """
    folder = Path(checkpoint).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or checkpoint.startswith((".", "~")) or checkpoint.count("/") != 1:
            raise UserError(f"there is no checkpoint at {checkpoint}; name a directory or a hub id such as owner/name")
        return checkpoint
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{checkpoint} has no model_index.json; name the directory that a training run exported")
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        digest.update(f"{file.relative_to(folder).as_posix()}:{file.stat().st_size}\n".encode())
        _hash_file(file, digest)
    return f"{folder.resolve().name}@{digest.hexdigest()[:8]}"


def _hash_file(file: Path, digest: Any) -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            while piece := stream.read(_SAMPLE_BYTES):
                digest.update(piece)
            return
        for sample in range(_SAMPLES):
            stream.seek(sample * (size - _SAMPLE_BYTES) // (_SAMPLES - 1), os.SEEK_SET)
            digest.update(stream.read(_SAMPLE_BYTES))
