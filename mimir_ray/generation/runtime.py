"""Make a process compute as a ``RuntimeConfig`` says: its device, where weights wait, their number format, tiles."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mimir_ray.config import UserError
from mimir_ray.generation.config import RuntimeConfig
from mimir_ray.model.latents import tile

_LEAST = {"bitsandbytes": (0, 48), "torchao": (0, 15)}
"""Of older ones diffusers cannot move what is quantised, or refuses them."""


def prepare(runtime: RuntimeConfig) -> torch.device:
    """Make this process compute as ``runtime`` says; returns the device for its modules.

    Raises:
        UserError: a setting that needs a GPU, in a process that sees none.
    """
    torch.set_num_threads(runtime.cpu_threads)
    if runtime.device != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if runtime.device == "cuda":
        raise UserError("device is cuda, but this process sees no GPU; set generation.runtime.device=auto or cpu")
    if runtime.offload != "none":
        raise UserError(
            f"generation.runtime.offload={runtime.offload} keeps weights in memory until a GPU needs them, and this "
            "process uses none: set generation.runtime.offload=none"
        )
    return torch.device("cpu")


def place(pipeline: Any, runtime: RuntimeConfig, device: torch.device) -> None:
    """A whole pipeline on ``device``, or beside it as diffusers offloads it; its VAE in tiles if it is to be."""
    if runtime.tiling:
        tile(pipeline.vae)
    if runtime.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif runtime.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)


def place_parts(parts: Sequence[nn.Module], runtime: RuntimeConfig, device: torch.device) -> list[Any]:
    """Parts that one stage computes one after another, on ``device`` or offloaded as those of a whole pipeline are.

    Returns what ``offload()`` can be called on to give the device back after the last of them; a part that is alone
    stays there, where nothing waits for its place.
    """
    from accelerate import cpu_offload, cpu_offload_with_hook

    hooks: list[Any] = []
    for part in parts:
        if runtime.offload == "sequential":
            cpu_offload(part, device, offload_buffers=len(part._parameters) > 0)  # as diffusers does
        elif runtime.offload == "model" and len(parts) > 1:
            hooks.append(cpu_offload_with_hook(part, device, prev_module_hook=hooks[-1] if hooks else None)[1])
        else:
            part.to(device)
    return hooks


def quantization(runtime: RuntimeConfig) -> Any:
    """diffusers' configuration of what ``runtime.quantize`` says of a transformer; None where nothing.

    Raises:
        UserError: the package that does it is lacking or too old, or there is no GPU where it needs one.
    """
    if runtime.quantize == "none":
        return None
    package = "torchao" if runtime.quantize == "torchao-int8" else "bitsandbytes"
    _require(package, runtime.quantize)
    if package == "torchao":
        from diffusers import TorchAoConfig
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    if runtime.device == "cpu" or not torch.cuda.is_available():
        raise UserError(
            f"generation.runtime.quantize={runtime.quantize} needs a GPU, and this process uses none: set it to "
            "torchao-int8, which runs on CPUs too, or to none"
        )
    from diffusers import BitsAndBytesConfig

    if runtime.quantize == "bnb-8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    dtype = getattr(torch, runtime.dtype)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _require(package: str, asked: str) -> None:
    least = ".".join(map(str, _LEAST[package]))
    remedy = "pip install 'mimir-ray[quantize]', or set it to none"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"generation.runtime.quantize={asked} needs the package {package}, which is not installed: {remedy}"
        ) from None
    if tuple(int(part) for part in version.split(".")[:2]) < _LEAST[package]:
        raise UserError(f"generation.runtime.quantize={asked} needs {package} {least}, and {version} is here: {remedy}")
