"""Which checkpoints can be run: CogVideoX text-to-video models and Mimirs on them, told by their configurations."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimir_ray.config import UserError

_CLASSES = {
    "transformer": ("CogVideoXTransformer3DModel",),
    "vae": ("AutoencoderKLCogVideoX",),
    "text_encoder": ("T5EncoderModel",),
    "scheduler": ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"),
}
"""What each part must be."""
_WEIGHTS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "(?:pytorch_)?model",
}
"""What the names of the files of each part begin with."""
_NAME_ANOTHER = "name a CogVideoX text-to-video checkpoint such as zai-org/CogVideoX-5b, or a Mimir"


@dataclass(frozen=True)
class Base:
    """The configurations of a checkpoint that can be run."""

    scheduler: str
    """Class of the scheduler."""
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    is_mimir: bool
    """Whether a token fuser is among its parts."""


def check_base(base: str | Path, revision: str | None = None) -> Base:
    """``read_base``, and of a directory also whether its weights are there."""
    found = read_base(base, revision)
    for part in _WEIGHTS:
        variant_of(base, part)
    return found


def read_base(base: str | Path, revision: str | None = None) -> Base:
    """The configurations of a checkpoint, a directory or a hub id.

    Raises:
        UserError: one that is not there or cannot be run, with what does not fit and the remedy.
    """
    index = read_json(base, "model_index.json", revision)
    for part, known in _CLASSES.items():
        made_of = (index.get(part) or [None, None])[1]
        if made_of not in known:
            raise UserError(_unfit(base, index, part, made_of))
    transformer = read_json(base, "transformer/config.json", revision)
    vae = read_json(base, "vae/config.json", revision)
    reads, makes = transformer.get("in_channels", 16), vae.get("latent_channels", 16)
    if reads != makes:
        raise UserError(
            f"{base} is not for text alone: its transformer reads {reads} channels and its VAE makes {makes}, so that "
            f"it needs an image or a video beside the prompt; {_NAME_ANOTHER}"
        )
    patch = transformer.get("patch_size_t")
    if patch not in (None, 1, 2) or (patch and not transformer.get("use_rotary_positional_embeddings")):
        positions = "rotary" if transformer.get("use_rotary_positional_embeddings") else "added"
        raise UserError(
            f"the transformer of {base} has patch_size_t={patch} and {positions} positions, and Mimir runs 1 and 2, as "
            f"CogVideoX 1.5 has it, with rotary ones: {_NAME_ANOTHER}"
        )
    return Base(index["scheduler"][1], transformer, vae, "token_fuser" in index)


def variant_of(base: str | Path, part: str) -> str | None:
    """The ``variant`` that diffusers and transformers must be told to find the weights of a part of a directory.

    None where the files have their usual names, and for a hub id, whose files are not known.

    Raises:
        UserError: there are no weights, or those of several variants and none under the usual names.
    """
    folder = Path(base, part)
    if not Path(base).is_dir():
        return None
    kind = r"(?:\.(?P<variant>[^.-]+))?"
    whole = re.compile(rf"{_WEIGHTS[part]}{kind}\.(?:safetensors|bin)")
    shards = re.compile(rf"{_WEIGHTS[part]}\.(?:safetensors|bin)\.index{kind}\.json")
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    found = {match["variant"] for name in names if (match := whole.fullmatch(name) or shards.fullmatch(name))}
    if not found:
        raise UserError(f"{folder} has no weights (.safetensors or .bin): is the download complete? Fetch it again")
    if None in found:
        return None
    if len(found) > 1:
        raise UserError(
            f"{folder} has weights of the variants {', '.join(sorted(map(str, found)))} and none under their usual "
            "names, so that nobody can tell which to take: leave those of one variant there"
        )
    return found.pop()


def read_json(base: str | Path, file: str, revision: str | None = None) -> dict[str, Any]:
    """A JSON file of a checkpoint. Raises UserError where there is none."""
    if Path(base).is_dir():
        path = Path(base, file)
    else:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )

        try:
            path = Path(hf_hub_download(str(base), file, revision=revision))
        except HFValidationError:
            raise UserError(f"there is no checkpoint at {base}; {_NAME_ANOTHER}") from None
        except RepositoryNotFoundError:
            raise UserError(
                f"the hub has no model {base}, or keeps it from you; see to the name, log in with `hf auth login`, or "
                "name a directory"
            ) from None
        except LocalEntryNotFoundError:
            raise UserError(
                f"{base} is not on this machine and the hub cannot be reached (no network, or HF_HUB_OFFLINE is set); "
                "see to that, or name a directory"
            ) from None
        except HfHubHTTPError as error:
            raise UserError(
                f"cannot read {file} of {base} from the hub: {str(error).splitlines()[0]}; see to the network and the "
                "name, or name a directory"
            ) from error
    if not path.is_file():
        raise UserError(f"{base} has no {file}; {_NAME_ANOTHER}")
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def _unfit(base: str | Path, index: Mapping[str, Any], part: str, made_of: str | None) -> str:
    kind = index.get("_class_name")
    kind = kind[-1] if isinstance(kind, list) else kind
    what = f"its {part} is a {made_of}" if made_of else f"it has no {part}"
    wanted = " or ".join(_CLASSES[part])
    remedy = _NAME_ANOTHER
    if part == "scheduler":
        other = f"pipeline.scheduler = {_CLASSES[part][0]}.from_config(pipeline.scheduler.config)"
        remedy = f"load it as a CogVideoXPipeline, set {other}, and save it with save_pretrained to another directory"
    return f"{base} ({kind}) cannot be run: {what}, and Mimir needs a {wanted}; {remedy}"
