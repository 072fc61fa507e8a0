"""What a training learnt, apart from the model that it began with: LoRA of the transformer, and the token fuser.

pytorch_lora_weights.safetensors    where adapters were trained
token_fuser/                        the whole fuser, in place of that of the model it is put on
language.json                       what the LLM is asked for it
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError

from mimir_ray.config import UserError, from_dict
from mimir_ray.model.adapters import load_adapters
from mimir_ray.model.config import LanguageConfig
from mimir_ray.model.layout import LANGUAGE_FILE
from mimir_ray.model.token_fuser import TokenFuser

_FUSER = "token_fuser"


def save_trained(pipeline: Any, folder: str | Path) -> None:
    """Write the adapters that are on the transformer as ``default``, if any, the token fuser and the questions."""
    save_adapters(pipeline, folder)
    pipeline.token_fuser.save_pretrained(Path(folder, _FUSER))
    Path(folder, LANGUAGE_FILE).write_text(json.dumps(pipeline.language.model_dump(mode="json"), indent=2) + "\n")


def save_adapters(pipeline: Any, folder: str | Path) -> bool:
    """Write the adapters that are on the transformer as ``default``; False where there are none."""
    if not getattr(pipeline.transformer, "peft_config", None):
        return False
    from peft import get_peft_model_state_dict

    pipeline.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(pipeline.transformer),
        transformer_lora_adapter_metadata=pipeline.transformer.peft_config["default"].to_dict(),
    )
    return True


def load_loras(transformer: Any, loras: Sequence[tuple[str, float]]) -> None:
    """Put (source, scale) each on ``transformer``, beside its own. Raises UserError as ``load_adapters`` does."""
    if not loras:
        return
    own = transformer.active_adapters() if getattr(transformer, "peft_config", None) else []
    scales = dict.fromkeys(own, 1.0)
    for number, (source, scale) in enumerate(loras):
        folder = trained_folder(source)
        if folder is None or (folder / LORA_WEIGHT_NAME_SAFE).is_file():
            load_adapters(transformer, folder or source, f"lora_{number}")
            scales[f"lora_{number}"] = scale
    if scales:
        transformer.set_adapters(list(scales), list(scales.values()))


def load_fuser(pipeline: Any, folder: Path) -> None:
    """Put the token fuser of ``folder`` in place of the pipeline's, with its questions to the LLM.

    Raises:
        UserError: it was trained on a base or an LLM of other sizes, or the pipeline is offloaded already.
    """
    old = pipeline.token_fuser
    fuser = TokenFuser.from_pretrained(folder / _FUSER, dtype=pipeline.transformer.dtype).eval()
    theirs, ours = _sizes(fuser), _sizes(old)
    if fuser.config.decoder and pipeline.llm is None:
        raise UserError(
            f"the token fuser of {folder} reads an LLM's tokens, and this model has no LLM: `mimir init` makes one of "
            "its base and the LLM it was trained with"
        )
    if theirs != ours:
        raise UserError(
            f"the token fuser of {folder} is for {theirs}, and this model has {ours}: load it on the base and the LLM "
            "that it was trained with"
        )
    if any(hasattr(module, "_hf_hook") for module in old.modules()):
        raise UserError(f"this pipeline is offloaded already: load {folder} first, and offload then")
    pipeline.register_modules(token_fuser=fuser.to(old.device))
    pipeline.language = from_dict(LanguageConfig, json.loads((folder / LANGUAGE_FILE).read_text()), "language")
    pipeline.register_to_config(language=pipeline.language.model_dump(mode="json"))


def trained_folder(source: str | Path, revision: str | None = None) -> Path | None:
    """Where the files of ``source`` lie, a directory or a hub id, if it has a token fuser; else None."""
    folder = Path(source).expanduser()
    if folder.exists():
        return folder if (folder / _FUSER / "config.json").is_file() and (folder / LANGUAGE_FILE).is_file() else None
    if str(source).count("/") != 1 or str(source).startswith((".", "~", "/")):
        return None
    try:
        hf_hub_download(str(source), LANGUAGE_FILE, revision=revision)
    except EntryNotFoundError:
        return None
    wanted = [LORA_WEIGHT_NAME_SAFE, f"{_FUSER}/*", LANGUAGE_FILE]
    return Path(snapshot_download(str(source), revision=revision, allow_patterns=wanted))


def _sizes(fuser: TokenFuser) -> str:
    config = fuser.config
    of_llm = f" and an LLM of width {config.llm_dim}" if config.decoder else " and no LLM"
    return f"{fuser.sequence_length} tokens of width {config.text_dim} ({config.text_length} of T5){of_llm}"
