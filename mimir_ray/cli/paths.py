"""Checks of the paths and addresses a user types, before anything is loaded or started."""

import posixpath
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mimir_ray.config import UserError
from mimir_ray.model.base import read_base, read_json

if TYPE_CHECKING:
    from mimir_ray.model.config import ModelConfig
    from mimir_ray.recipes import Recipe


def require(uri: str, option: str, remedy: str) -> str:
    """`uri`, when something is there.

    Raises:
        UserError: nothing is there; the message names the `option` and the `remedy`.
    """
    from mimir_ray.storage import exists

    if not exists(uri):
        raise UserError(f"{option} {uri!r} does not exist; {remedy}")
    return uri


def require_writable(uri: str, option: str) -> str:
    """`uri`, when a folder of that name is there or can be made, and written to; of stores only the former is asked.

    Raises:
        UserError: it is a file, lies in one, or cannot be written; the message names the `option`.
    """
    from pyarrow.fs import FileType

    from mimir_ray.storage import filesystem

    system, path = filesystem(uri)
    try:
        while (kind := system.get_file_info(path).type) == FileType.NotFound and (above := posixpath.dirname(path)):
            path = above
    except OSError as error:
        raise UserError(f"{option} {uri!r} cannot be reached: {error}; name another place") from None
    if kind == FileType.File:
        where = "is a file" if path == filesystem(uri)[1] else f"lies in {path}, which is a file"
        raise UserError(f"{option} {uri!r} {where}; name a folder")
    if system.type_name == "local":
        try:  # permissions do not say it: root has all of them, and a file system may be read-only or full
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise UserError(f"{option} {uri!r} cannot be written ({error.strerror} in {path}); name another") from None
    return uri


def require_models(model: "ModelConfig") -> None:
    """Raise UserError where the base or the language model is not there, on disk or on the hub."""
    require_checkpoint(model.base, model.revision)
    if model.llm is not None and model.fuser.decoder:
        read_json(model.llm, "config.json", model.llm_revision)


def require_checkpoint(path: str, revision: str | None = None) -> str:
    """`path`, when it is a checkpoint that can be run: a directory, or a hub id (`organisation/name`)."""
    directory = Path(path)
    if directory.is_dir():
        if not (directory / "model_index.json").is_file():
            raise UserError(
                f"the model directory {path!r} has no model_index.json: name the directory that `mimir train` exported "
                "(OUT/export) or that `mimir init` wrote"
            )
        read_base(path)
        return path
    if directory.exists() or path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UserError(
            f"there is no model at {path!r}: name a checkpoint directory in diffusers layout, or a hub id such as "
            "zai-org/CogVideoX-2b"
        )
    read_base(path, revision)
    return path


def shipped_checkpoint(recipe: "Recipe") -> str:
    """The model that ships here, which answers where a user names none.

    Raises:
        UserError: the recipe is for models on another base.
    """
    from mimir_ray.shapes.weights import base_dir, mimir_dir

    if recipe.model.base != base_dir():
        raise UserError(
            f"--recipe {recipe.name} needs --model: its model.base is {recipe.model.base}, and the model that ships "
            "here is on the base of the shapes world"
        )
    return require_checkpoint(mimir_dir())
