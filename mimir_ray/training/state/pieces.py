"""The state of a run on disk: every trained weight with its moments and its average, by name, in float32.

ZeRO gives each worker stretches of the flattened weights. Each is saved with its place, by torch's distributed
checkpoint, so any number of workers can continue what any other number saved, under any ZeRO stage, and one process
alone can read a weight whole. Frozen weights are not here: they are those of the starting checkpoint.
"""

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from mimir_ray.config import UserError

WEIGHT = "weight"
Kind = Literal["weight", "average"]
"""Which of a trained parameter's tensors is meant: its float32 value or the moving average of it."""

_PROGRESS = "progress.json"


@dataclass(frozen=True)
class TrainingProgress:
    """How far a run has come; the rest of what a step does follows from its number."""

    step: int
    """Steps done, those that were left out included."""
    updates: int
    """Times that the optimiser has changed the weights."""

    @property
    def skipped(self) -> int:
        """Steps that were left out because a gradient was not finite."""
        return self.step - self.updates


class Piece(Tensor):
    """A stretch of a flattened parameter, which knows its place; torch's distributed checkpoint asks it."""

    whole: int
    start: int

    @classmethod
    def of(cls, values: Tensor, start: int, whole: int) -> Self:
        """Elements ``start`` to ``start + len(values)`` of ``whole``; shares the memory of ``values``."""
        piece = values.detach().as_subclass(cls)
        piece.whole, piece.start = whole, start
        return piece

    def size(self, dim: int | None = None) -> Any:
        """The size of the whole parameter, as for torch's own distributed tensors; ``shape`` is the piece's."""
        return torch.Size([self.whole]) if dim is None else (self.whole,)[dim]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(offsets=torch.Size([self.start]), sizes=self.shape)]

    def __create_write_items__(self, name: str, piece: Any) -> list[WriteItem]:
        (chunk,) = self.__create_chunk_list__()
        data = TensorWriteData(chunk, TensorProperties.create_from_tensor(self), size=torch.Size([self.whole]))
        return [WriteItem(MetadataIndex(name, chunk.offsets), WriteItemType.SHARD, tensor_data=data)]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        return self.as_subclass(Tensor)


def write_state(directory: Path, pieces: dict[str, Piece], progress: TrainingProgress) -> None:
    """Write this worker's pieces; every worker must call it, with a directory of its own or one that they share.

    Together, in one directory, the files are the state.
    """
    directory.mkdir(parents=True, exist_ok=True)
    save(dict(pieces), checkpoint_id=directory)
    (directory / _PROGRESS).write_text(json.dumps(asdict(progress)) + "\n")


def read_state(directory: Path, pieces: dict[str, Piece], sizes: dict[str, int]) -> None:
    """Fill the pieces of this worker, whatever pieces were written; every worker must call it.

    Args:
        sizes: elements of every tensor of the state, pieces of others included, so that all workers refuse or none.

    Raises UserError where the directory holds the state of another module.
    """
    kept = _kept(directory)
    for name, size in sizes.items():
        if kept.get(name) != size:
            raise UserError(
                f"the checkpoint {directory} has {kept.get(name, 'no')} elements of {name} and the run has "
                f"{size}: it is of another model; choose another --out"
            )
    _load(directory, dict(pieces))


def read_progress(directory: Path) -> TrainingProgress:
    """Raises UserError where ``directory`` is no checkpoint of training."""
    try:
        return TrainingProgress(**json.loads((directory / _PROGRESS).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{directory} holds no training state ({error}); name a checkpoint that training wrote"
        ) from None


def read_weights(directory: Path, kind: Kind) -> dict[str, Tensor]:
    """The trained parameters by name, flat and in float32, in one process. Raises UserError where there are none."""
    read_progress(directory)
    sizes = _kept(directory)
    wanted = {name: size for name, size in sizes.items() if name.startswith(f"{kind}/")}
    if not wanted:
        raise UserError(
            f"the checkpoint {directory} has no moving average: training.ema_decay was 0; export the weights themselves"
        )
    found = {name: torch.empty(size) for name, size in wanted.items()}
    _load(directory, found, alone=True)
    return {name.partition("/")[2]: value for name, value in found.items()}


def missing_files(directory: Path) -> list[str]:
    """Names of files without which the state is not whole, cut ones among them."""
    metadata = directory / ".metadata"
    if not metadata.exists():
        return [metadata.name]
    sizes = {_PROGRESS: 1}
    for place in (FileSystemReader(directory).read_metadata().storage_data or {}).values():
        sizes[place.relative_path] = max(sizes.get(place.relative_path, 0), place.offset + place.length)
    files = {name: directory / name for name in sizes}
    return sorted(name for name, file in files.items() if not file.exists() or file.stat().st_size < sizes[name])


def _load(directory: Path, found: dict[str, Any], *, alone: bool = False) -> None:
    """Fill ``found``; ``alone`` in this process only, even where there are others."""
    try:
        with warnings.catch_warnings():  # that one process reads alone is meant
            warnings.simplefilter("ignore", UserWarning)
            load(found, checkpoint_id=directory, no_dist=alone)
    except (OSError, CheckpointException) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"the checkpoint {directory} cannot be read: {reason}; use the one before it") from error


def key(kind: str, name: str) -> str:
    """What the state calls a tensor of a parameter: ``weight/...``, ``average/...``, or by the optimiser's own name."""
    return f"{kind}/{name}"


def _kept(directory: Path) -> dict[str, int]:
    """Elements of each tensor in the state."""
    entries = FileSystemReader(directory).read_metadata().state_dict_metadata
    return {name: entry.size.numel() for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}
