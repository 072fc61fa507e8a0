"""The name of a checkpoint, part of the identity of every video it makes. Imports no torch."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mimir_ray.config import UserError
from mimir_ray.generation.config import Lora, RuntimeConfig
from mimir_ray.model.base import check_base

_SAMPLES, _SAMPLE_BYTES = 64, 1 << 20


def name_of_runnable(checkpoint: str, lora: Sequence[Lora] = ()) -> str:
    """``model_name`` of a checkpoint that can be run. Raises UserError for any other."""
    name = model_name(checkpoint, lora)
    check_base(checkpoint)
    return name


def model_name(checkpoint: str, lora: Sequence[Lora] = ()) -> str:
    """The name under which a checkpoint's videos are recorded: a hub id, or a directory's name and hash of its content.

    So two trainings exported to the same place never share an output, and a copy elsewhere is the same model. Of files
    above 64 MiB, 64 evenly spread MiB are hashed. LoRA that are put on follow, named likewise, with their strength.

    Raises:
        UserError: a directory that is no checkpoint, or no LoRA where one is named.
    """
    return "+".join([_checkpoint_name(checkpoint), *(f"{_lora_name(one.path)}:{one.scale}" for one in lora)])


def located(runtime: RuntimeConfig) -> RuntimeConfig:
    """The same with LoRA files and directories named absolutely, as workers start in other directories."""
    lora = [
        one.model_copy(update={"path": str(path.resolve())}) if (path := Path(one.path).expanduser()).exists() else one
        for one in runtime.lora
    ]
    return runtime.model_copy(update={"lora": tuple(lora)})


def _lora_name(source: str) -> str:
    path = Path(source).expanduser()
    if not path.exists():
        if path.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
            raise UserError(f"there is no LoRA file at {source}; name a .safetensors file, a directory or a hub id")
        return source
    if path.is_dir():
        return _named(path)
    beside = path.with_name("adapter_config.json")  # of peft, which says alpha
    return _named(path, [path, *([beside] if beside.is_file() else [])])


def _checkpoint_name(checkpoint: str) -> str:
    folder = Path(checkpoint).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or checkpoint.startswith((".", "~")) or checkpoint.count("/") != 1:
            raise UserError(f"there is no checkpoint at {checkpoint}; name a directory or a hub id such as owner/name")
        return checkpoint
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{checkpoint} has no model_index.json; name the directory that a training run exported")
    return _named(folder)


def _named(path: Path, files: Sequence[Path] | None = None) -> str:
    """Its name and a hash of its ``files``, those in it unless given."""
    root = path if files is None else path.parent
    if files is None:
        files = [file for file in root.rglob("*") if file.is_file() and not file.name.startswith(".")]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(root).as_posix()}:{file.stat().st_size}\n".encode())
        _hash_file(file, digest)
    return f"{path.resolve().name}@{digest.hexdigest()[:8]}"


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
