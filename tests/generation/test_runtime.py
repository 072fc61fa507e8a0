"""Tiles, offloading and quantised weights: the same for a whole pipeline and for stages in processes of their own."""

import importlib.metadata
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from pydantic import ValidationError

from mimir_ray.config import UserError
from mimir_ray.generation import checkpoint as loading
from mimir_ray.generation.batch import generate_batch
from mimir_ray.generation.config import GenerationConfig, RuntimeConfig
from mimir_ray.generation.generator import generate
from mimir_ray.generation.runtime import prepare, quantization
from mimir_ray.generation.stages import Condition
from mimir_ray.model.sampling import DenoiseState

RUNTIME = RuntimeConfig(cpu_threads=1)
PROMPT = "a red circle moves left then up"


def roads(checkpoint: str, config: GenerationConfig) -> list[np.ndarray]:
    """The frames of one request, twice of a whole pipeline and twice of three stages."""
    generator = loading.load_generator(checkpoint, config.runtime)
    asked = config.request(PROMPT, model="m", seed=7)
    frames = [generate(generator, asked) for _ in range(2)]
    encode = loading.load_encode_stage(checkpoint, config.runtime)
    denoise = loading.load_denoise_stage(checkpoint, config.runtime)
    decode = loading.load_decode_stage(checkpoint, config.runtime)
    for _ in range(2):
        condition = Condition.from_bytes(encode.encode(asked).to_bytes())
        state = denoise.start(asked, condition)
        while not state.finished:
            state = DenoiseState.from_bytes(denoise.step(state, condition).to_bytes())
        frames.append(decode.decode(state.latents))
    return frames


def change(config: GenerationConfig, **runtime: Any) -> GenerationConfig:
    return config.model_copy(update={"runtime": RuntimeConfig(cpu_threads=1, **runtime)})


def test_a_tiled_decoder_never_sees_more_than_a_tile(
    base: str, config: GenerationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = AutoencoderKLCogVideoX._decode

    def watch(vae: Any, latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(module, torch.nn.Conv3d) and module._forward_pre_hooks for module in vae.modules()):
            first = next(module for module in vae.decoder.modules() if isinstance(module, torch.nn.Conv3d))
            first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
        return original(vae, latents, *args, **kwargs)

    monkeypatch.setattr(AutoencoderKLCogVideoX, "_decode", watch)
    whole, *_ = roads(base, config)
    widest, _ = max(seen), seen.clear()
    tiled, *others = roads(base, change(config, tiling=True))
    assert max(seen) < widest
    assert all(np.array_equal(tiled, other) for other in others)
    assert tiled.shape == whole.shape
    assert not np.array_equal(tiled, whole)


@pytest.mark.parametrize("kind", ["model", "sequential"])
@pytest.mark.parametrize("checkpoint", ["mimir", "base"])
def test_offloading_changes_no_pixel(
    kind: str,
    checkpoint: str,
    config: GenerationConfig,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The CPU stands for the GPU; layers that are offloaded have no memory here until they compute."""
    folder = request.getfixturevalue(checkpoint)
    expected, *_ = roads(folder, config)
    device = torch.device("cpu")
    monkeypatch.setattr(loading, "prepare", lambda runtime: device)
    monkeypatch.setattr(
        "accelerate.cpu_offload",
        lambda part, _, original=sys.modules["accelerate"].cpu_offload, **rest: original(part, device, **rest),
    )
    assert all(np.array_equal(frames, expected) for frames in roads(folder, change(config, offload=kind)))


def test_parts_of_a_stage_take_turns(mimir: str, config: GenerationConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leave the device to other stages after each prompt; a transformer that is alone stays."""
    monkeypatch.setattr(loading, "prepare", lambda runtime: torch.device("cpu"))
    runtime = RuntimeConfig(cpu_threads=1, offload="model")
    encode = loading.load_encode_stage(mimir, runtime)
    parts = [encode._pipeline.text_encoder, encode._pipeline.llm, encode._pipeline.token_fuser]
    before = [part._hf_hook.prev_module_hook for part in parts]
    assert [hook and hook.model for hook in before] == [None, *parts[:-1]]
    gone: list[Any] = []
    for part in parts:
        monkeypatch.setattr(part._hf_hook, "init_hook", lambda module: gone.append(module) or module)
    encode.encode(config.request(PROMPT, model="m"))
    assert gone[-3:] == parts
    alone = loading.load_denoise_stage(mimir, runtime)
    assert not hasattr(alone._sampler.transformer, "_hf_hook")


def test_what_changes_pixels_keeps_videos_apart(mimir: str, config: GenerationConfig, tmp_path: Path) -> None:
    generate_batch([], mimir, str(tmp_path), config)
    for runtime in ({"tiling": True}, {"quantize": "torchao-int8"}):
        with pytest.raises(UserError, match="dtype"):
            generate_batch([], mimir, str(tmp_path), change(config, **runtime))
    generate_batch([], mimir, str(tmp_path), change(config, offload="model"))
    assert RuntimeConfig(dtype="bfloat16").arithmetic == "bfloat16"
    assert RuntimeConfig(dtype="bfloat16", quantize="bnb-4bit", tiling=True).arithmetic == "bfloat16 bnb-4bit tiling"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("runtime", "told"),
    [
        (
            {"offload": "model"},
            "offload=model keeps weights in memory until a GPU needs them, and this process",
        ),
        ({"offload": "sequential", "device": "cpu"}, "set generation.runtime.offload=none"),
    ],
)
def test_offloading_without_a_gpu_is_refused(runtime: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        prepare(RuntimeConfig(cpu_threads=1, **runtime))


def test_quantised_layers_are_not_moved_one_by_one() -> None:
    with pytest.raises(ValidationError, match="set offload to model, or quantize to none"):
        RuntimeConfig(offload="sequential", quantize="bnb-8bit")


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Installed packages, as the test says."""
    known: dict[str, str] = {}
    original = importlib.metadata.version

    def version(package: str) -> str:
        if package not in ("torchao", "bitsandbytes"):
            return original(package)
        if package not in known:
            raise importlib.metadata.PackageNotFoundError(package)
        return known[package]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return known


@pytest.mark.parametrize(("asked", "package"), [("bnb-8bit", "bitsandbytes"), ("torchao-int8", "torchao")])
def test_a_package_that_is_lacking_or_old_is_named(
    asked: Any, package: str, versions: dict[str, str], mimir: str
) -> None:
    runtime = RuntimeConfig(cpu_threads=1, quantize=asked)
    with pytest.raises(
        UserError, match=rf"{asked} needs the package {package}, .* pip install 'mimir-ray\[quantize\]'"
    ):
        loading.load_generator(mimir, runtime)
    versions[package] = "0.9.1"
    with pytest.raises(UserError, match=rf"needs {package} 0\.\d+, and 0\.9\.1 is here"):
        loading.load_denoise_stage(mimir, runtime)


def test_bitsandbytes_is_configured_as_diffusers_has_it_and_needs_a_gpu(
    versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions["bitsandbytes"] = "0.50.2"
    four, eight = (RuntimeConfig(dtype="bfloat16", quantize=kind) for kind in ("bnb-4bit", "bnb-8bit"))
    with pytest.raises(UserError, match="bnb-4bit needs a GPU, and this process uses none: set it to torchao-int8"):
        quantization(four.model_copy(update={"device": "cpu"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made = quantization(four)
    assert made.load_in_4bit
    assert (made.bnb_4bit_quant_type, made.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)
    assert quantization(eight).load_in_8bit
    assert quantization(RUNTIME) is None


def test_torchao_is_configured_as_diffusers_has_it(versions: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed: its module is a stand-in here."""
    versions["torchao"] = "0.18.0"
    given: list[Any] = []
    weights = types.SimpleNamespace()
    module = types.SimpleNamespace(Int8WeightOnlyConfig=lambda: weights)
    monkeypatch.setitem(sys.modules, "torchao.quantization", module)
    monkeypatch.setattr("diffusers.TorchAoConfig", given.append)
    quantization(RuntimeConfig(quantize="torchao-int8"))
    assert given == [weights]


def test_int8_weights_make_nearly_the_same_video(mimir: str, config: GenerationConfig) -> None:
    """On the CPU, where torchao is installed."""
    pytest.importorskip("torchao")
    whole, *_ = roads(mimir, config)
    eight, *others = roads(mimir, change(config, quantize="torchao-int8"))
    assert all(np.array_equal(eight, other) for other in others)
    assert not np.array_equal(eight, whole)
    assert np.abs(eight.astype(int) - whole).mean() < 2
    transformer = loading.load_pipeline(mimir, RuntimeConfig(quantize="torchao-int8", cpu_threads=1)).transformer
    assert "Int8" in type(transformer.transformer_blocks[0].attn1.to_q.weight).__name__
