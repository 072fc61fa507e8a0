"""Runs the pretraining stages in order, each once: `pretrain(out, config)`."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer

from mimir_ray.shapes.pretrain.base import encode_scenes, train_base
from mimir_ray.shapes.pretrain.config import STAGES, PretrainConfig, PretrainStage
from mimir_ray.shapes.pretrain.text_models import train_llm, train_t5
from mimir_ray.shapes.pretrain.tokenizer import train_llm_tokenizer, train_t5_tokenizer
from mimir_ray.shapes.pretrain.vae import train_vae

logger = logging.getLogger(__name__)
_LOG_EVERY_S = 10.0


def pretrain(out: str | Path, config: PretrainConfig, stages: Sequence[PretrainStage] = STAGES) -> Path:
    """Run `stages`; those whose product lies in `out` already are skipped, an interrupted one starts over.

    Writes `t5_tokenizer`, `t5`, `llm` (model and tokenizer), `vae`, `latents.pt`, `base` (CogVideoX layout, the
    finished product) and `pretrain.jsonl`, a line of stage, step, loss and seconds at least every ten seconds.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.threads)
    for stage in STAGES:
        if stage in stages:
            _run(stage, folder, config)
    return folder


def _run(stage: PretrainStage, folder: Path, config: PretrainConfig) -> None:
    done = folder / f".{stage}.done"
    if done.exists():
        logger.info("%s: already done", stage)
        return
    report = _reporter(stage, folder / "pretrain.jsonl")
    if stage == "tokenizers":
        train_t5_tokenizer(folder / "t5_tokenizer")
        train_llm_tokenizer(folder / "llm")
    elif stage == "llm":
        train_llm(AutoTokenizer.from_pretrained(folder / "llm"), folder / "llm", config.llm, config.seed, report)
    elif stage == "t5":
        tokenizer = AutoTokenizer.from_pretrained(folder / "t5_tokenizer")
        train_t5(tokenizer, folder / "t5", config.t5, config.seed, report)
    elif stage == "vae":
        train_vae(folder / "vae", config.vae, config.seed, report)
    elif stage == "latents":
        encode_scenes(folder / "vae", folder / "latents.pt", config.base, config.seed, report)
    else:
        shutil.rmtree(folder / "base", ignore_errors=True)
        train_base(folder, folder / "latents.pt", config.base, config.seed, report)
    done.touch()


def _reporter(stage: PretrainStage, path: Path) -> Callable[[int, float], None]:
    start, last = time.monotonic(), -_LOG_EVERY_S

    def report(step: int, loss: float) -> None:
        nonlocal last
        seconds = time.monotonic() - start
        if seconds - last < _LOG_EVERY_S:
            return
        last = seconds
        logger.info("%s: step %d, loss %.4f, %.0f s", stage, step, loss, seconds)
        with path.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"stage": stage, "step": step, "loss": loss, "seconds": round(seconds, 1)}) + "\n")

    return report
