"""A trained state becomes a MimirPipeline directory, which any diffusers user can load and training can start from, or
the part of one that was learnt."""

import json
import logging
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import pyarrow.fs as pafs
import torch
from torch import Tensor

from mimir_ray.config import UserError, fingerprint
from mimir_ray.model.base import check_base
from mimir_ray.model.config import ModelConfig
from mimir_ray.model.layout import LANGUAGE_FILE
from mimir_ray.storage import absolute, exists, file_id, filesystem, join, write_bytes, write_json
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.export.card import model_card
from mimir_ray.training.module import select_trained
from mimir_ray.training.reporting.validation import read_validation
from mimir_ray.training.state.checkpoints import open_checkpoint
from mimir_ray.training.state.pieces import Kind, read_progress, read_weights
from mimir_ray.training.state.run import read_run

logger = logging.getLogger(__name__)

Form = Literal["merged", "unmerged", "adapter"]

INDEX = "model_index.json"
ACCOUNT = "training.json"
"""File in the export that says how it was made."""


def export_run(
    run_dir: str,
    out: str | None = None,
    *,
    average: bool | None = None,
    step: int | None = None,
    form: Form = "merged",
) -> str:
    """Write a checkpoint of a run; returns where it is.

    Args:
        out: unless given ``export`` in the run's directory, of what was learnt alone ``adapter``.
        average: the moving average of the weights instead of the weights; where None, if the run keeps one.
        step: of the checkpoint; the last one unless given.
        form: a MimirPipeline directory, its adapters ``merged`` with the weights or ``unmerged`` beside them; or
            ``adapter``, adapters and token fuser alone, which ``load_lora_weights`` puts on the starting model.

    Raises UserError where there is no such run, checkpoint or average, or nothing of that form in it.
    """
    run_dir = absolute(run_dir)
    run = read_run(run_dir)
    target = out or join(run_dir, "adapter" if form == "adapter" else "export")
    require_replaceable(target)
    kind: Kind = _validated(run.training) if average is None else "average" if average else "weight"
    if form == "adapter" and run.training.train == "full":
        raise UserError(
            f"{run_dir} was trained with training.train=full, which changed every weight of the transformer; only what "
            "lora or fuser learnt can be written alone: leave the option out"
        )
    if form == "unmerged" and run.training.train != "lora":
        raise UserError(
            f"{run_dir} was trained with training.train={run.training.train}, without adapters; only those of lora can "
            "be kept apart: leave the option out"
        )
    with open_checkpoint(run_dir, step) as directory:
        progress = read_progress(directory)
        pipeline = trained_pipeline(read_weights(directory, kind), run.model, run.training, merge=form == "merged")
    account = run.model_dump(mode="json") | {
        "fingerprint": fingerprint(run),
        "step": progress.step,
        "skipped_steps": progress.skipped,
        "weights": kind,
        "started_from": starting_files(run.model),
    }
    scored = read_validation(run_dir, progress.step) if kind == _validated(run.training) else None
    on_mimir = check_base(run.model.base, run.model.revision).is_mimir
    card = model_card(run, account, scored, form=form, on_mimir=on_mimir)
    return export(pipeline, target, account, card, alone=form == "adapter")


def trained_pipeline(
    weights: dict[str, Tensor], model: ModelConfig, config: TrainingConfig, *, merge: bool = True
) -> Any:
    """A MimirPipeline of these weights, and every other component as in the starting checkpoint, in ``model.dtype``.

    Args:
        weights: trained parameters of the training module, ``transformer.*`` and ``token_fuser.*``, of any shape.
        merge: add what adapters have learnt to the weights that they adapt, in float32; without it they stay adapters.

    Raises UserError for weights of another model.
    """
    from mimir_ray.model.adapters import merge_adapters

    pipeline = _starting_pipeline(model)
    adapted = config.train == "lora"
    if adapted:
        pipeline.transformer.float()
        select_trained(pipeline.transformer, config)
    parameters = {
        f"{name}.{parameter}": value
        for name in ("transformer", "token_fuser")
        for parameter, value in getattr(pipeline, name).named_parameters()
    }
    for name, value in weights.items():
        if name not in parameters or parameters[name].numel() != value.numel():
            raise UserError(f"the checkpoint has {value.numel()} elements of {name}, which is no part of {model.base}")
        parameters[name].data.copy_(value.view_as(parameters[name]))
    if adapted and merge:
        merge_adapters(pipeline.transformer)
    if adapted:
        pipeline.transformer.to(getattr(torch, model.dtype))
    return pipeline


def export(pipeline: Any, out: str, account: dict[str, Any], card: str | None = None, *, alone: bool = False) -> str:
    """Write ``out``, whole or not at all (on an object store the file without which nothing loads it comes last), in
    place of what was there.

    Adapters that were not merged lie beside the components, and go on with them wherever the model is loaded.

    Args:
        account: written beside the components as ``training.json``.
        card: written there as ``README.md``, the page of a model on the hub.
        alone: write adapters and token fuser without the other components.
    """
    target = absolute(out)
    require_replaceable(target)
    system, path = filesystem(target)
    if isinstance(system, pafs.LocalFileSystem):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        for leftover in Path(path).parent.glob(f".{Path(path).name}.*.tmp"):
            shutil.rmtree(leftover)
        hidden, former = (Path(path).parent / f".{Path(path).name}.{secrets.token_hex(6)}.tmp" for _ in range(2))
        try:
            _save(pipeline, hidden, card, alone)
            (hidden / ACCOUNT).write_text(json.dumps(account, indent=2) + "\n")
            if Path(path).exists():
                Path(path).rename(former)
            hidden.rename(path)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
            shutil.rmtree(former, ignore_errors=True)
    else:
        if exists(target):
            system.delete_dir(path)  # neither its files nor a mixture of both may be taken for the new one
        with tempfile.TemporaryDirectory() as staging:
            _save(pipeline, Path(staging), card, alone)
            index = Path(staging) / (LANGUAGE_FILE if alone else INDEX)
            last = index.read_bytes()
            index.unlink()
            pafs.copy_files(staging, path, destination_filesystem=system)
        write_json(join(target, ACCOUNT), account)
        write_bytes(join(target, index.name), last)
    logger.info("exported %s", target)
    return target


def require_replaceable(out: str) -> None:
    """Raise UserError where something else than an export lies at ``out``."""
    system, path = filesystem(absolute(out))
    info = system.get_file_info(path)
    held = system.get_file_info(pafs.FileSelector(path)) if info.type == pafs.FileType.Directory else []
    names = {entry.base_name for entry in held}
    ours = not held or (ACCOUNT in names and not names.isdisjoint({INDEX, LANGUAGE_FILE}))
    if info.type == pafs.FileType.File or not ours:
        raise UserError(f"{out} holds something else than an export, which would be lost; choose another --out")


def _validated(config: TrainingConfig) -> Kind:
    """Which of a checkpoint's weights make the videos of a validation, and an export unless told otherwise."""
    return "average" if config.ema_decay else "weight"


def starting_files(model: ModelConfig) -> dict[str, str]:
    """Content ids of the files of the starting checkpoint; of one on the hub its name and commit alone."""
    root = Path(model.base)
    if root.is_dir():
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): file_id(path) for path in files}
    from huggingface_hub import snapshot_download

    cached = snapshot_download(model.base, revision=model.revision, allow_patterns=INDEX)
    return {f"{model.base}@{model.revision or 'main'}": Path(cached).name}


def _save(pipeline: Any, directory: Path, card: str | None, alone: bool) -> None:
    from mimir_ray.model.layout import keep_unmerged
    from mimir_ray.model.trained import save_adapters, save_trained

    if alone:
        save_trained(pipeline, directory)
    else:
        apart = save_adapters(pipeline, directory)
        if apart:
            pipeline.transformer.unload_lora()
        pipeline.save_pretrained(directory)
        if apart:
            keep_unmerged(directory)
    if card is not None:
        (directory / "README.md").write_text(card)


def _starting_pipeline(model: ModelConfig) -> Any:
    from mimir_ray.model.adapters import merge_adapters
    from mimir_ray.model.pipeline import MimirPipeline

    if check_base(model.base, model.revision).is_mimir:
        pipeline = MimirPipeline.from_pretrained(model.base, revision=model.revision, dtype=getattr(torch, model.dtype))
        merge_adapters(pipeline.transformer)
        return pipeline
    return MimirPipeline.from_model_config(model)
