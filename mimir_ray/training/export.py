"""A trained module becomes a MimirPipeline directory that any diffusers user can load."""

import json
import logging
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import torch
from torch import Tensor

from mimir_ray.model.config import ModelConfig
from mimir_ray.storage import absolute, filesystem, join, write_bytes, write_json

logger = logging.getLogger(__name__)

ACCOUNT = "training.json"
"""File in the export that says how it was made."""


def export(weights: dict[str, Tensor], model: ModelConfig, out: str, account: dict[str, Any]) -> str:
    """Write ``out`` as a MimirPipeline: these weights, and every other component as in the starting checkpoint.

    ``out`` appears whole or not at all (on an object store its ``model_index.json``, without which nothing loads it,
    comes last), and replaces what was there.

    Args:
        weights: of the training module, ``transformer.*`` and ``token_fuser.*``; converted to ``model.dtype``.
        account: written beside the components as ``training.json``.
    """
    pipeline = _starting_pipeline(model)
    for name in ("transformer", "token_fuser"):
        prefix = name + "."
        part = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        getattr(pipeline, name).load_state_dict(part)
    target = absolute(out)
    system, path = filesystem(target)
    if isinstance(system, pafs.LocalFileSystem):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        for leftover in Path(path).parent.glob(f".{Path(path).name}.*.tmp"):
            shutil.rmtree(leftover)
        hidden = Path(path).parent / f".{Path(path).name}.{secrets.token_hex(6)}.tmp"
        try:
            pipeline.save_pretrained(hidden)
            (hidden / ACCOUNT).write_text(json.dumps(account, indent=2) + "\n")
            if Path(path).exists():
                shutil.rmtree(path)
            hidden.rename(path)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    else:
        with tempfile.TemporaryDirectory() as staging:
            pipeline.save_pretrained(staging)
            index = Path(staging) / "model_index.json"
            last = index.read_bytes()
            index.unlink()
            pafs.copy_files(staging, path, destination_filesystem=system)
        write_json(join(target, ACCOUNT), account)
        write_bytes(join(target, "model_index.json"), last)
    logger.info("exported %s", target)
    return target


def _starting_pipeline(model: ModelConfig) -> Any:
    from diffusers import DiffusionPipeline

    from mimir_ray.model.pipeline import MimirPipeline

    if DiffusionPipeline.load_config(model.base, revision=model.revision)["_class_name"] == "MimirPipeline":
        return MimirPipeline.from_pretrained(model.base, revision=model.revision, dtype=getattr(torch, model.dtype))
    return MimirPipeline.from_model_config(model)
