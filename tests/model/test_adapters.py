"""LoRA files of every form do what a merge worked out here does, or are refused in words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mimir_ray.config import UserError
from mimir_ray.model.adapters import load_adapters, merge_adapters
from mimir_ray.model.pipeline import MimirPipeline
from tests.model.conftest import PROMPTS
from tests.tiny import frames_of, tiny_transformer

RANKS = {
    "transformer_blocks.0.attn1.to_q": 4,
    "transformer_blocks.0.attn1.to_out.0": 4,
    "transformer_blocks.1.attn1.to_q": 2,
    "transformer_blocks.1.ff.net.0.proj": 3,
    "patch_embed.proj": 2,  # a convolution
    "proj_out": 4,
}
ALPHAS = {"transformer_blocks.0.attn1.to_q": 8.0, "transformer_blocks.1.attn1.to_q": 1.0, "proj_out": 0.5}
"""Of some layers; another has its rank, which is no scale."""


def keys(prefix: str, down: str, up: str, *, flat: bool = False) -> Callable[[str], tuple[str, str, str]]:
    """Names of A, B and alpha of a layer."""

    def of(layer: str) -> tuple[str, str, str]:
        name = prefix + (layer.replace(".", "_") if flat else layer)
        return f"{name}.{down}.weight", f"{name}.{up}.weight", f"{name}.alpha"

    return of


FORMS = {
    "diffusers": keys("transformer.", "lora_A", "lora_B"),
    "diffusers of old": keys("transformer.", "lora.down", "lora.up"),
    "peft": keys("base_model.model.", "lora_A", "lora_B"),
    "peft of a pipeline": keys("base_model.model.transformer.", "lora_A", "lora_B"),
    "peft's modules": keys("", "lora_A.default", "lora_B.default"),
    "bare": keys("", "lora_A", "lora_B"),
    "kohya": keys("lora_unet_", "lora_down", "lora_up", flat=True),
    "kohya of VideoX-Fun": keys("lora_unet__", "lora_down", "lora_up", flat=True),
    "ComfyUI": keys("diffusion_model.", "lora_down", "lora_up"),
    "ComfyUI of peft": keys("diffusion_model.", "lora_A", "lora_B"),
}


def matrices(transformer: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Random A and B of the layers of ``RANKS``."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for layer, rank in RANKS.items():
        outputs, *inputs = transformer.get_submodule(layer).weight.shape
        point = (1,) * (len(inputs) - 1)
        made[layer] = (
            torch.randn(rank, *inputs, generator=generator) * 0.1,
            torch.randn(outputs, rank, *point, generator=generator) * 0.1,
        )
    return made


def written(form: str, transformer: Any, path: Path, *, alpha: bool) -> Path:
    """A file of the form, with alphas of some layers if so asked."""
    tensors = {}
    for layer, (down, up) in matrices(transformer).items():
        named = FORMS[form](layer)
        tensors |= {named[0]: down, named[1]: up}
        if alpha and layer in ALPHAS:
            tensors[named[2]] = torch.tensor(ALPHAS[layer])
    save_file(tensors, path)
    return path


def merged(transformer: Any, *, alpha: bool) -> dict[str, Tensor]:
    """Every weight with what the file adds, as the definition of LoRA has it."""
    weights = {name: value.clone() for name, value in transformer.state_dict().items()}
    for layer, (down, up) in matrices(transformer).items():
        scale = ALPHAS[layer] / RANKS[layer] if alpha and layer in ALPHAS else 1
        weights[f"{layer}.weight"] += scale * (up.flatten(1) @ down.flatten(1)).view_as(weights[f"{layer}.weight"])
    return weights


def velocity(transformer: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        made: Tensor = transformer(
            hidden_states=torch.randn(1, 3, 16, 8, 8, generator=generator),
            encoder_hidden_states=torch.randn(1, 24, 32, generator=generator),
            timestep=torch.tensor([500]),
            return_dict=False,
        )[0]
    return made


@pytest.mark.parametrize("alpha", [False, True], ids=["without alpha", "with alpha"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_adds_what_lora_is_defined_to_add(form: str, alpha: bool, tmp_path: Path) -> None:
    transformer, plain = tiny_transformer(), tiny_transformer()
    file = written(form, transformer, tmp_path / "lora.safetensors", alpha=alpha)
    plain.load_state_dict(merged(plain, alpha=alpha))
    load_adapters(transformer, file)
    torch.testing.assert_close(velocity(transformer), velocity(plain), rtol=1e-4, atol=1e-5)
    merge_adapters(transformer)
    weights = transformer.state_dict()
    assert weights.keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fields", [{}, {"use_rslora": True}, {"alpha_pattern": {"0.attn1.to_q": 3}}], ids=str)
def test_what_peft_saves_does_what_it_did_in_peft(fields: dict[str, Any], tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=7, target_modules=["to_q", "to_out.0"], init_lora_weights=False, **fields)
    torch.manual_seed(2)
    trained = peft.get_peft_model(tiny_transformer(), config)
    expected = velocity(trained)
    trained.save_pretrained(tmp_path)
    transformer = tiny_transformer()
    load_adapters(transformer, tmp_path)
    torch.testing.assert_close(velocity(transformer), expected)
    assert not torch.allclose(expected, velocity(tiny_transformer()), atol=1e-3)


def test_alpha_in_diffusers_metadata_is_heeded(mimir: Path, tmp_path: Path) -> None:
    trained = MimirPipeline.from_pretrained(mimir)
    config = peft.LoraConfig(r=4, lora_alpha=1, target_modules=["to_q"], init_lora_weights=False)
    trained.transformer.add_adapter(config)
    trained.save_lora_weights(
        tmp_path,
        transformer_lora_layers=peft.get_peft_model_state_dict(trained.transformer),
        transformer_lora_adapter_metadata=trained.transformer.peft_config["default"].to_dict(),
    )
    fresh = MimirPipeline.from_pretrained(mimir)
    fresh.load_lora_weights(tmp_path)
    frames = [frames_of(pipeline, PROMPTS[0], num_inference_steps=2) for pipeline in (trained, fresh)]
    assert np.array_equal(*frames)


def test_adapters_stay_on_when_others_come_and_are_put_on_once(tmp_path: Path) -> None:
    transformer, plain = tiny_transformer(), tiny_transformer()
    first = written("kohya", transformer, tmp_path / "first.safetensors", alpha=True)
    second = {"proj_out.lora_A.weight": torch.ones(1, 32), "proj_out.lora_B.weight": torch.ones(64, 1)}
    load_adapters(transformer, first)
    load_adapters(transformer, second, "mine")
    weights = merged(plain, alpha=True)
    weights["proj_out.weight"] += 1
    plain.load_state_dict(weights)
    torch.testing.assert_close(velocity(transformer), velocity(plain), rtol=1e-4, atol=1e-5)
    for again in (first, second):
        with pytest.raises(UserError, match=r"are on already, as '(default_0|mine)'"):
            load_adapters(transformer, again)
    transformer.delete_adapters("mine")
    load_adapters(transformer, second, "mine")
    torch.testing.assert_close(velocity(transformer), velocity(plain), rtol=1e-4, atol=1e-5)


def test_adapters_take_the_dtype_of_the_transformer(tmp_path: Path) -> None:
    transformer = tiny_transformer().bfloat16()
    load_adapters(transformer, written("kohya", transformer, tmp_path / "lora.safetensors", alpha=True))
    assert {parameter.dtype for parameter in transformer.parameters()} == {torch.bfloat16}
    merge_adapters(transformer)
    assert transformer.dtype == torch.bfloat16
    exact = merged(tiny_transformer(), alpha=True)["proj_out.weight"]
    torch.testing.assert_close(transformer.proj_out.weight.float(), exact, rtol=0.01, atol=0.01)


LAYER = "transformer_blocks.0.attn1.to_q"
WHOLE = {f"{LAYER}.lora_A.weight": torch.ones(2, 32), f"{LAYER}.lora_B.weight": torch.ones(32, 2)}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "has no tensors"),
        ({f"{LAYER}.lora_A.weight": torch.ones(2, 32)}, "has only a part of the adapter of"),
        ({f"{LAYER}.alpha": torch.tensor(2.0)}, "has only a part"),
        (WHOLE | {f"{LAYER}.dora_scale": torch.ones(1, 32)}, r"dora_scale, which is no part of a plain LoRA"),
        (WHOLE | {f"{LAYER}.lora_magnitude_vector": torch.ones(32)}, "no part of a plain LoRA"),
        (WHOLE | {f"{LAYER}.lora_B.bias": torch.ones(32)}, "no part of a plain LoRA"),
        ({"lora_unet_x.hada_w1_a": torch.ones(2, 2)}, "no part of a plain LoRA"),
        ({f"transformer.{LAYER}.lokr_w1": torch.ones(2, 2)}, "no part of a plain LoRA"),
        ({f"diffusion_model.{LAYER}.diff": torch.ones(32, 32)}, "no part of a plain LoRA"),
        (WHOLE | {"lora_te_encoder_block_0.lora_down.weight": torch.ones(2, 32)}, "has no such layer"),
        (WHOLE | {"text_encoder.encoder.proj_out.lora_A.weight": torch.ones(2, 32)}, "has no such layer"),
        ({"transformer.single_transformer_blocks.0.proj_out.lora_A.weight": torch.ones(2, 32)}, "has no such layer"),
        (WHOLE | {f"{LAYER}.lora_A.weight": torch.ones(2, 64)}, "32x2 times 2x64, and its weight here is 32x32"),
        (WHOLE | {f"{LAYER}.lora_B.weight": torch.ones(32, 3)}, "belongs to a model of another size"),
    ],
    ids=lambda value: next(iter(reversed(value)), "none") if isinstance(value, dict) else "",
)
def test_what_is_no_plain_lora_of_the_model_is_refused(tensors: dict[str, Tensor], said: str, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    save_file(tensors, file)
    transformer = tiny_transformer()
    with pytest.raises(UserError, match=f"lora.safetensors .*{said}"):
        load_adapters(transformer, file)
    assert not any("lora" in name for name, _ in transformer.named_parameters())


@pytest.mark.parametrize("field", [{"use_dora": True}, {"peft_type": "LOHA"}, {"init_lora_weights": "pissa"}], ids=str)
def test_a_peft_configuration_of_more_than_lora_is_refused(field: dict[str, Any], tmp_path: Path) -> None:
    save_file(
        {f"base_model.model.{key}": value for key, value in WHOLE.items()}, tmp_path / "adapter_model.safetensors"
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2} | field))
    with pytest.raises(UserError, match=next(iter(field))):
        load_adapters(tiny_transformer(), tmp_path)


def test_a_place_without_one_file_is_refused(tmp_path: Path) -> None:
    transformer = tiny_transformer()
    with pytest.raises(UserError, match="there is no LoRA file at"):
        load_adapters(transformer, tmp_path / "missing.safetensors")
    with pytest.raises(UserError, match="and has none"):
        load_adapters(transformer, tmp_path)
    for name in ("a", "b"):
        save_file(WHOLE, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"has a\.safetensors, b\.safetensors; name it with weight_name="):
        load_adapters(transformer, tmp_path)
    (tmp_path / "c.bin").write_bytes(b"PK of pickle")
    with pytest.raises(UserError, match=r"c\.bin is no \.safetensors file"):
        load_adapters(transformer, tmp_path / "c.bin")
    load_adapters(transformer, tmp_path, weight_name="a.safetensors")


def test_a_pipeline_with_adapters_on_is_not_saved_under_names_that_nobody_reads(mimir: Path, tmp_path: Path) -> None:
    pipeline = MimirPipeline.from_pretrained(mimir)
    expected = merged(pipeline.transformer, alpha=True)
    pipeline.load_lora_weights(written("ComfyUI", pipeline.transformer, tmp_path / "lora.safetensors", alpha=True))
    with pytest.raises(UserError, match=r"call fuse_lora\(\) and then unload_lora_weights\(\)"):
        pipeline.save_pretrained(tmp_path / "saved")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    pipeline.save_pretrained(tmp_path / "saved")
    loaded = MimirPipeline.from_pretrained(tmp_path / "saved").transformer.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(loaded[name], value, rtol=1e-5, atol=1e-6)
