"""The checkpoints of a run, on any file system."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs as pafs

from mimir_ray.config import UserError
from mimir_ray.storage import filesystem, join
from mimir_ray.training.state.pieces import missing_files
from mimir_ray.training.state.run import CHECKPOINTS, checkpoint_name


def checkpoint_steps(out: str) -> list[int]:
    """Steps of the checkpoints that are there, the first one first."""
    system, path = filesystem(join(out, CHECKPOINTS))
    found = system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    names = [info.base_name for info in found if info.type == pafs.FileType.Directory]
    return sorted(int(name[5:]) for name in names if name.startswith("step-") and name[5:].isdigit())


@contextmanager
def open_checkpoint(out: str, step: int | None = None) -> Iterator[Path]:
    """The files of a checkpoint on this machine; of the last whole one unless ``step`` is given.

    Raises UserError where there is none, or not that one.
    """
    steps = checkpoint_steps(out)
    if not steps:
        raise UserError(f"{out} has no checkpoint yet; one comes every training.checkpoint_every steps")
    if step is not None and step not in steps:
        raise UserError(f"{out} has no checkpoint of step {step}; choose one of {', '.join(map(str, steps))}")
    lacking: list[str] = []
    for candidate in [step] if step is not None else reversed(steps):
        with _local(join(out, CHECKPOINTS, checkpoint_name(candidate))) as directory:
            lacking = missing_files(directory)
            if not lacking:  # a kill may have cut an upload short
                yield directory
                return
    raise UserError(f"the checkpoint of step {step or steps[-1]} of {out} lacks {', '.join(lacking)}; choose another")


@contextmanager
def _local(uri: str) -> Iterator[Path]:
    system, path = filesystem(uri)
    if isinstance(system, pafs.LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as copy:
        pafs.copy_files(path, copy, source_filesystem=system)
        yield Path(copy)
