"""Checks of the paths and addresses a user types, before anything is loaded or started."""

from pathlib import Path
from typing import TYPE_CHECKING

from mimir_ray.config import UserError
from mimir_ray.model.base import read_base

if TYPE_CHECKING:
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


def require_checkpoint(path: str) -> str:
    """`path`, when it is a checkpoint directory that can be run, or looks like a hub id (`organisation/name`)."""
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
