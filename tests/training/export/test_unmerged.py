"""A Mimir whose adapters lie beside its components is the same model on every road."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig

from mimir_ray.generation.checkpoint import load_denoise_stage, load_encode_stage, load_generator
from mimir_ray.generation.config import GenerationConfig, RuntimeConfig
from mimir_ray.generation.generator import generate
from mimir_ray.model.config import ModelConfig
from mimir_ray.model.pipeline import MimirPipeline
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.export import export, trained_pipeline
from mimir_ray.training.module import load_start
from tests.tiny import frames_of, tiny_mimir

CONFIG = GenerationConfig(
    num_frames=9, height=64, width=64, fps=8, num_inference_steps=2, runtime=RuntimeConfig(cpu_threads=1)
)
REQUEST = CONFIG.request("a red circle moves left", model="m", seed=1)


def adapted(path: Path) -> Any:
    """A Mimir with adapters that change much."""
    pipeline = MimirPipeline.from_pretrained(path)
    torch.manual_seed(1)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    pipeline.transformer.add_adapter(LoraConfig(r=4, lora_alpha=12, target_modules=targets, init_lora_weights=False))
    return pipeline


@pytest.fixture(scope="module")
def unmerged(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("unmerged")
    return export(adapted(tiny_mimir(root / "mimir")), f"{root}/unmerged", {})


@pytest.fixture(scope="module")
def weights(unmerged: str) -> dict[str, torch.Tensor]:
    """Of the transformer, merged by peft."""
    transformer = adapted(Path(unmerged).with_name("mimir")).transformer
    transformer.fuse_lora()
    transformer.unload_lora()
    merged: dict[str, torch.Tensor] = transformer.state_dict()
    return merged


def test_generating_puts_them_on(unmerged: str) -> None:
    start = Path(unmerged).with_name("mimir")
    expected = frames_of(adapted(start), REQUEST.prompt, num_inference_steps=2, seed=1)[0]
    without = frames_of(MimirPipeline.from_pretrained(start), REQUEST.prompt, num_inference_steps=2, seed=1)[0]
    assert np.abs(expected.astype(int) - without).mean() > 2
    loaded = MimirPipeline.from_pretrained(unmerged)
    assert np.array_equal(frames_of(loaded, REQUEST.prompt, num_inference_steps=2, seed=1)[0], expected)
    assert np.array_equal(generate(load_generator(unmerged, CONFIG.runtime), REQUEST), expected)


def test_a_denoise_stage_of_its_own_puts_them_on(unmerged: str) -> None:
    generator = load_generator(unmerged, CONFIG.runtime)
    condition = load_encode_stage(unmerged, CONFIG.runtime).encode(REQUEST)
    stage = load_denoise_stage(unmerged, CONFIG.runtime)
    state, expected = stage.start(REQUEST, condition), generator.start(REQUEST, condition)
    assert torch.equal(stage.step(state, condition).latents, generator.step(expected, condition).latents)


@pytest.mark.parametrize("part", ["full", "lora", "fuser"])
def test_training_starts_from_them_merged(unmerged: str, weights: dict[str, torch.Tensor], part: Any) -> None:
    config = TrainingConfig(steps=1, batch_size=1, learning_rate=1e-3, train=part)
    started = load_start(ModelConfig(base=unmerged), config).module.transformer.state_dict()
    plain = {name.replace(".base_layer", ""): value for name, value in started.items() if ".lora_" not in name}
    assert plain.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(plain[name], value)


@pytest.mark.parametrize("part", ["lora", "fuser"])
def test_what_is_trained_from_them_is_exported_and_validated_with_them(
    unmerged: str, weights: dict[str, torch.Tensor], part: Any
) -> None:
    config = TrainingConfig(steps=1, batch_size=1, learning_rate=1e-3, train=part)
    transformer = trained_pipeline({}, ModelConfig(base=unmerged), config).transformer.state_dict()
    assert transformer.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(transformer[name], value)


def test_plain_diffusers_refuses_what_it_would_load_without_them(
    unmerged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path))
    with pytest.raises(ImportError, match=r"load it with mimir_ray\.model\.pipeline\.MimirPipeline\.from_pretrained"):
        DiffusionPipeline.from_pretrained(unmerged, trust_remote_code=True)
