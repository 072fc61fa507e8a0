"""Load a checkpoint, whole or one stage of it: a MimirPipeline or a plain CogVideoX, a directory or a hub id."""

from typing import TYPE_CHECKING, Any

import torch

from mimir_ray.generation.config import RuntimeConfig
from mimir_ray.generation.generator import Generator
from mimir_ray.generation.naming import model_name
from mimir_ray.generation.runtime import place, place_parts, prepare, quantization
from mimir_ray.generation.stages import DecodeStage, DenoiseStage, EncodeStage
from mimir_ray.model.base import check_base, variant_of
from mimir_ray.model.latents import tile

if TYPE_CHECKING:
    from mimir_ray.model.pipeline import MimirPipeline

__all__ = [
    "load_decode_stage",
    "load_denoise_stage",
    "load_encode_stage",
    "load_generator",
    "load_pipeline",
    "model_name",
]


def load_pipeline(checkpoint: str, runtime: RuntimeConfig) -> "MimirPipeline":
    """The whole pipeline, ready to compute in this process."""
    device = prepare(runtime)
    pipeline = _mimir(checkpoint, runtime, {"transformer": _transformer(checkpoint, runtime)})
    place(pipeline, runtime, device)
    return pipeline


def load_generator(checkpoint: str, runtime: RuntimeConfig) -> Generator:
    """A generator of this process."""
    name = model_name(checkpoint, runtime.lora)  # says what is not there, before seconds of loading
    return Generator(load_pipeline(checkpoint, runtime), name)


def load_encode_stage(checkpoint: str, runtime: RuntimeConfig) -> EncodeStage:
    """T5, the LLM and the fuser; the transformer and the VAE are shapes without weights, which tell sizes and dtype."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

    device = prepare(runtime)
    shapes = {
        "transformer": _shape_of(CogVideoXTransformer3DModel, checkpoint, "transformer", runtime),
        "vae": _shape_of(AutoencoderKLCogVideoX, checkpoint, "vae", runtime),
    }
    pipeline = _mimir(checkpoint, runtime, shapes)
    parts = [pipeline.text_encoder, pipeline.llm, pipeline.token_fuser]
    weighty = [part for part in parts if part is not None and next(part.parameters(), None) is not None]
    if next(pipeline.token_fuser.parameters(), None) is None:  # a plain CogVideoX's has the empty prompt alone
        pipeline.token_fuser.to(device)
    return EncodeStage(pipeline, place_parts(weighty, runtime, device))


def load_denoise_stage(checkpoint: str, runtime: RuntimeConfig) -> DenoiseStage:
    """The transformer, the scheduler, and of the VAE its configuration."""
    import diffusers
    from diffusers import AutoencoderKLCogVideoX

    device = prepare(runtime)
    scheduler_class = getattr(diffusers, check_base(checkpoint).scheduler)
    transformer = _transformer(checkpoint, runtime)
    place_parts([transformer], runtime, device)
    return DenoiseStage(
        transformer,
        scheduler_class.from_pretrained(checkpoint, subfolder="scheduler"),
        _shape_of(AutoencoderKLCogVideoX, checkpoint, "vae", runtime).config,
    )


def load_decode_stage(checkpoint: str, runtime: RuntimeConfig) -> DecodeStage:
    """The VAE."""
    from diffusers import AutoencoderKLCogVideoX

    device = prepare(runtime)
    check_base(checkpoint)
    variant = variant_of(checkpoint, "vae")
    vae = AutoencoderKLCogVideoX.from_pretrained(checkpoint, subfolder="vae", dtype=_dtype(runtime), variant=variant)
    if runtime.tiling:
        tile(vae)
    place_parts([vae.eval()], runtime, device)
    return DecodeStage(vae)


def _transformer(checkpoint: str, runtime: RuntimeConfig) -> Any:
    """The transformer with its own adapters and those of ``runtime``, quantised if it is to be."""
    from diffusers import CogVideoXTransformer3DModel

    from mimir_ray.model.adapters import load_own_adapters
    from mimir_ray.model.trained import load_loras

    found = check_base(checkpoint)
    transformer = CogVideoXTransformer3DModel.from_pretrained(
        checkpoint,
        subfolder="transformer",
        dtype=_dtype(runtime),
        variant=variant_of(checkpoint, "transformer"),
        quantization_config=quantization(runtime),
    )
    if found.is_mimir:
        load_own_adapters(transformer, checkpoint)
    load_loras(transformer, [(one.path, one.scale) for one in runtime.lora])
    return transformer.eval()


def _mimir(checkpoint: str, runtime: RuntimeConfig, given: dict[str, Any]) -> "MimirPipeline":
    """The pipeline of a checkpoint with some components ``given``, and the token fusers that come with LoRA."""
    from mimir_ray.model.pipeline import MimirPipeline
    from mimir_ray.model.trained import load_fuser, trained_folder

    dtype = _dtype(runtime)
    if check_base(checkpoint).is_mimir:
        variant = variant_of(checkpoint, "transformer")
        pipeline: MimirPipeline = MimirPipeline.from_pretrained(checkpoint, dtype=dtype, variant=variant, **given)
    else:
        pipeline = MimirPipeline.from_base(checkpoint, dtype=dtype, **given)
    for one in runtime.lora:
        if folder := trained_folder(one.path):
            load_fuser(pipeline, folder)
    return pipeline


def _shape_of(cls: Any, checkpoint: str, subfolder: str, runtime: RuntimeConfig) -> Any:
    """A component without weights: its configuration and dtype."""
    with torch.device("meta"):
        shape = cls.from_config(cls.load_config(checkpoint, subfolder=subfolder))
    return torch.nn.Module.to(shape, _dtype(runtime)).eval()


def _dtype(runtime: RuntimeConfig) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, runtime.dtype)
    return dtype
