"""Adapters (LoRA) of the video transformer, from files in the forms of diffusers, peft, kohya and ComfyUI.

An adapter adds ``alpha / rank * B A`` to a layer's weight. Shapes: A is rank x inputs, B outputs x rank, and for a
convolution with the sides of its kernel.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from diffusers.utils import get_adapter_name
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mimir_ray.config import UserError

_PEFT_FILE, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIXES = (
    *("transformer.", "diffusion_model.", "model.diffusion_model."),
    *("base_model.model.transformer.", "base_model.model.", ""),
)
"""Before a layer's name, in the files of diffusers, ComfyUI and peft."""
_KOHYA_PREFIXES = ("lora_unet__", "lora_unet_", "lora_transformer_")
"""Before a layer's name in which each dot has become an underscore."""
_HALVES = re.compile(
    r"(?P<layer>.+?)\.(?:(?P<down>lora_A|lora_down|lora\.down)|(?P<up>lora_B|lora_up|lora\.up))(?:\.\w+)?\.weight"
)
_ALPHA = re.compile(r"(?P<layer>.+)\.alpha")
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "default")
"""``init_lora_weights`` of peft that leave the adapted weights as they were."""


def load_adapters(
    transformer: Any,
    source: str | Path | Mapping[str, Tensor],
    name: str | None = None,
    *,
    pipeline: Any = None,
    hotswap: bool = False,
    **where: Any,
) -> None:
    """Put adapters on ``transformer``, beside those that are on, in its dtype.

    Their strength is ``alpha / rank`` where the file says alpha (a tensor of each layer, diffusers' metadata, or peft's
    ``adapter_config.json`` beside it), and 1 where it does not.

    Args:
        source: a .safetensors file, a directory or hub id that has one, or tensors by key.
        name: for ``set_adapters``; ``default_0`` and so on unless given.
        pipeline: the one whose offloading must step aside meanwhile.
        hotswap: replace the adapters of that name.
        where: ``weight_name`` and ``subfolder`` of the file, and what ``snapshot_download`` takes.

    Raises:
        UserError: no such file, one that has anything but plain LoRA of this transformer's layers, or one that is on.
    """
    tensors, config = _read(source, **where)
    label = "the state dict" if isinstance(source, Mapping) else str(source)
    halves, alphas = _by_layer(tensors, transformer, label)
    _check_config(config, label)
    ranks = {layer: int(down.shape[0]) for layer, (down, _) in halves.items()}
    for layer, rank in ranks.items():
        alphas.setdefault(layer, _alpha(config, layer, rank))
    dtype = transformer.dtype
    state = {
        f"{layer}.lora_{half}.weight": tensor.to(dtype)
        for layer, pair in halves.items()
        for half, tensor in zip("AB", pair, strict=True)
    }
    before = transformer.active_adapters() if getattr(transformer, "peft_config", None) else []
    if not hotswap:
        _refuse_twice(transformer, state, label)
    name = name or get_adapter_name(transformer)
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    transformer.load_lora_adapter(
        state,
        prefix=None,
        adapter_name=name,
        hotswap=hotswap,
        metadata={
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": {f"^{re.escape(layer)}": r for layer, r in ranks.items() if r != rank},
            "alpha_pattern": {f"^{re.escape(layer)}": a for layer, a in alphas.items() if a != alpha},
            "target_modules": sorted(halves),
        },
        _pipeline=pipeline,
    )
    transformer.set_adapter(list(dict.fromkeys([*before, name])))  # peft would leave the new ones on alone


def load_own_adapters(transformer: Any, checkpoint: str | Path, revision: str | None = None) -> None:
    """Put on what ``mimir export --unmerged`` keeps beside a Mimir's components, if it does.

    Not for a plain CogVideoX, which diffusers runs without a LoRA that lies beside it.
    """
    file = Path(checkpoint, LORA_WEIGHT_NAME_SAFE)
    if not Path(checkpoint).is_dir():
        try:
            file = Path(hf_hub_download(str(checkpoint), LORA_WEIGHT_NAME_SAFE, revision=revision))
        except EntryNotFoundError:
            return
    if file.is_file():
        load_adapters(transformer, file)


def merge_adapters(transformer: Any) -> None:
    """Add what adapters have learnt to the weights, in float32, and take them off; without any, nothing happens."""
    if getattr(transformer, "peft_config", None):
        dtype = transformer.dtype
        transformer.float()
        transformer.fuse_lora()
        transformer.unload_lora()
        transformer.to(dtype)


def _read(
    source: str | Path | Mapping[str, Tensor], weight_name: str | None = None, subfolder: str = "", **hub: Any
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by key, and peft's configuration where the source says it."""
    if isinstance(source, Mapping):
        return dict(source), {}
    file = _locate(str(source), weight_name, subfolder, hub)
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (it is no mapping)
            metadata = opened.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{file} is no .safetensors file ({error}); convert it, or fetch it again") from None
    if LORA_ADAPTER_METADATA_KEY in metadata:
        packed: dict[str, Any] = json.loads(metadata[LORA_ADAPTER_METADATA_KEY])
        return tensors, {key.removeprefix("transformer."): value for key, value in packed.items()}
    beside = file.with_name(_PEFT_CONFIG)
    if file.name == _PEFT_FILE and beside.is_file():
        return tensors, json.loads(beside.read_text())
    return tensors, {}


def _locate(source: str, weight_name: str | None, subfolder: str, hub: dict[str, Any]) -> Path:
    folder = Path(source).expanduser()
    if folder.is_file():
        return folder
    if not folder.is_dir():
        if source.count("/") != 1 or source.startswith((".", "~", "/")):
            raise UserError(f"there is no LoRA file at {source}; name a .safetensors file, a directory or a hub id")
        wanted = [weight_name] if weight_name else [LORA_WEIGHT_NAME_SAFE, _PEFT_FILE, _PEFT_CONFIG]
        folder = Path(snapshot_download(source, allow_patterns=[str(Path(subfolder, name)) for name in wanted], **hub))
    found = sorted((folder / subfolder).glob(weight_name or "*.safetensors"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise UserError(f"{source} must have one LoRA file (.safetensors) and has {names}; name it with weight_name=")
    return found[0]


def _by_layer(
    tensors: Mapping[str, Tensor], transformer: nn.Module, label: str
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float]]:
    """A and B of each layer of the transformer, and the alphas that are tensors. Raises UserError as above."""
    weights = {
        name.removesuffix(".base_layer"): _shape(module)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and ".lora_" not in name
    }
    flat = {name.replace(".", "_"): name for name in weights}
    downs: dict[str, Tensor] = {}
    ups: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for key, tensor in tensors.items():
        match = _HALVES.fullmatch(key) or _ALPHA.fullmatch(key)
        if match is None:
            raise UserError(
                f"{label} has {key}, which is no part of a plain LoRA (lora_A and lora_B or lora_down and lora_up, and "
                "alpha): DoRA, LoHa, LoKr and whole weights are not supported; merge them with the tool that made them"
            )
        layer = _layer(match["layer"], weights, flat)
        if layer is None:
            raise UserError(
                f"{label} has {key}, and this transformer has no such layer: it belongs to another model, or to its "
                "text encoder"
            )
        if match.re is _ALPHA:
            alphas[layer] = float(tensor)
        else:
            (downs if match["down"] else ups)[layer] = tensor
    if lonely := sorted((downs.keys() ^ ups.keys()) | (alphas.keys() - downs.keys())):
        raise UserError(f"{label} has only a part of the adapter of {lonely[0]}: is the file whole? Fetch it again")
    if not downs:
        raise UserError(f"{label} has no tensors; name a file that has a LoRA of a CogVideoX transformer")
    for layer in downs:
        _check_shapes(label, layer, downs[layer], ups[layer], weights[layer])
    return {layer: (downs[layer], ups[layer]) for layer in downs}, alphas


def _layer(name: str, weights: Mapping[str, Any], flat: Mapping[str, str]) -> str | None:
    for prefix in _PREFIXES:
        if name.startswith(prefix) and name.removeprefix(prefix) in weights:
            return name.removeprefix(prefix)
    for prefix in _KOHYA_PREFIXES:
        if name.startswith(prefix) and name.removeprefix(prefix) in flat:
            return flat[name.removeprefix(prefix)]
    return None


def _shape(module: nn.Linear | nn.Conv2d) -> tuple[int, ...]:
    """Of a weight, which may be quantised and lie packed."""
    return (module.out_features, module.in_features) if isinstance(module, nn.Linear) else tuple(module.weight.shape)


def _check_shapes(label: str, layer: str, down: Tensor, up: Tensor, weight: tuple[int, ...]) -> None:
    rank, point = down.shape[0], (1,) * (len(weight) - 2)
    if down.shape[1:] != weight[1:] or up.shape != (weight[0], rank, *point):
        b, a, w = ("x".join(map(str, shape)) for shape in (up.shape, down.shape, weight))
        raise UserError(
            f"{label} adapts {layer} with {b} times {a}, and its weight here is {w}: the file belongs to a model of "
            "another size"
        )


def _check_config(config: Mapping[str, Any], label: str) -> None:
    kind, start = config.get("peft_type") or "LORA", config.get("init_lora_weights", True)
    if kind != "LORA" or config.get("use_dora") or start not in _PLAIN_STARTS:
        asked = f"peft_type={kind}, use_dora={config.get('use_dora', False)}, init_lora_weights={start}"
        raise UserError(
            f"{label} says {asked}, which is more than adding B A to a weight; merge it with peft, or train plain LoRA"
        )


def _alpha(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """What a configuration says of a layer, as the number that is divided by the rank."""
    from peft.utils.other import get_pattern_key

    if "lora_alpha" not in config:
        return rank
    pattern: dict[str, float] = config.get("alpha_pattern") or {}
    alpha: float = pattern.get(get_pattern_key(list(pattern), layer), config["lora_alpha"])
    return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha


def _refuse_twice(transformer: Any, state: Mapping[str, Tensor], label: str) -> None:
    from peft import get_peft_model_state_dict

    for name in getattr(transformer, "peft_config", {}):
        on = get_peft_model_state_dict(transformer, adapter_name=name)
        if on.keys() == state.keys() and all(torch.equal(on[key].cpu(), state[key].cpu()) for key in state):
            raise UserError(
                f"the adapters of {label} are on already, as {name!r} (a Mimir is loaded with its own): to change "
                f"their strength call set_adapters({name!r}, weight), to take them off unload_lora_weights()"
            )
