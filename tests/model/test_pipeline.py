"""``MimirPipeline``: built from a base, saved, loaded, and equal to its base while it is fresh."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline

from mimir_ray.config import UserError
from mimir_ray.model.config import FuserConfig, LanguageConfig, ModelConfig
from mimir_ray.model.pipeline import MimirPipeline
from tests.model.conftest import PROMPTS, STYLES
from tests.tiny import LLM_DIM, ONE_POINT_FIVE, TEXT_DIM, TEXT_LENGTH, frames_of, tiny_base, tiny_scheduler

SHORT: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0}


def diffusers_frames(pipeline: CogVideoXPipeline, seeds: list[int], **text: Any) -> np.ndarray:
    """What diffusers' own pipeline makes, as uint8."""
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    made = pipeline(**text, generator=generators, output_type="pt", max_sequence_length=TEXT_LENGTH, **SHORT).frames
    frames: np.ndarray = (made * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
    return frames


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("dpm", [False, True], ids=["ddim", "dpm"])
def test_a_fresh_mimir_without_stabilizer_equals_its_base_bit_for_bit(dpm: bool, base: Path, llm: Path) -> None:
    """Guided away from zeros, as Mimir is trained."""
    ours = MimirPipeline.from_base(base, llm, FuserConfig(stabilizer=False), LanguageConfig(max_new_tokens=6))
    theirs = CogVideoXPipeline.from_pretrained(base)
    ours.scheduler = theirs.scheduler = tiny_scheduler(dpm=dpm)
    frames = frames_of(ours, PROMPTS, seed=[5, 6], **SHORT)
    with torch.no_grad():
        embeds, _ = theirs.encode_prompt(
            PROMPTS, do_classifier_free_guidance=False, max_sequence_length=TEXT_LENGTH, num_videos_per_prompt=1
        )
    expected = diffusers_frames(theirs, [5, 6], prompt_embeds=embeds, negative_prompt_embeds=torch.zeros_like(embeds))
    assert frames.shape == (2, 9, 64, 64, 3)
    assert np.array_equal(frames, expected)


@pytest.mark.parametrize("style", STYLES)
def test_a_base_alone_makes_what_diffusers_makes_of_it(style: str, base: Path, llm: Path, tmp_path: Path) -> None:
    alone = MimirPipeline.from_base(base)
    assert alone.llm is None
    assert not alone.token_fuser.config.decoder
    frames = frames_of(alone, PROMPTS, seed=[5, 6], **SHORT)
    expected = diffusers_frames(CogVideoXPipeline.from_pretrained(base), [5, 6], prompt=PROMPTS)
    assert np.array_equal(frames, expected)

    alone.save_pretrained(tmp_path)
    loaded = MimirPipeline.from_pretrained(tmp_path)
    assert loaded.llm is None
    assert np.array_equal(frames_of(loaded, PROMPTS, seed=[5, 6], **SHORT), expected)
    if style == "2b":
        fuser = FuserConfig(stabilizer_join="residual", null_condition="empty_prompt")
        fresh = MimirPipeline.from_base(base, llm, fuser, LanguageConfig(max_new_tokens=6))
        assert np.array_equal(frames_of(fresh, PROMPTS, seed=[5, 6], **SHORT), expected)


def test_the_empty_prompt_is_encoded_in_the_number_format_of_the_text(base_5b: Path) -> None:
    alone = MimirPipeline.from_base(base_5b, dtype=torch.bfloat16)
    encode = CogVideoXPipeline.from_pretrained(base_5b, dtype=torch.bfloat16).encode_prompt
    with torch.no_grad():
        expected = encode(PROMPTS[:1], max_sequence_length=TEXT_LENGTH)
    for ours, theirs in zip(alone.condition(alone.encode_prompt(PROMPTS[0])), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_transformer_with_an_ofs_embedding_is_given_what_diffusers_gives(tmp_path: Path) -> None:
    """Its text-to-video pipeline gives none, and fails; the constant is that of its image-to-video pipeline."""
    base = tiny_base(tmp_path, rotary=True, **ONE_POINT_FIVE, ofs_embed_dim=16)
    theirs = CogVideoXPipeline.from_pretrained(base)
    theirs.transformer.forward = partial(theirs.transformer.forward, ofs=torch.full((1,), 2.0))
    expected = diffusers_frames(theirs, [5], prompt=PROMPTS[0])
    assert np.array_equal(frames_of(MimirPipeline.from_base(base), PROMPTS[0], seed=5, **SHORT), expected)


@pytest.mark.parametrize("style", STYLES)
def test_the_stabilizer_gets_room_and_the_weights_stay(style: str, base: Path, llm: Path, tmp_path: Path) -> None:
    pipeline = MimirPipeline.from_base(base, llm, language=LanguageConfig(max_new_tokens=6))
    original = CogVideoXPipeline.from_pretrained(base).transformer
    assert pipeline.transformer.config.max_text_seq_length == TEXT_LENGTH + 4 * (style == "2b")
    weights = original.state_dict()
    assert weights.keys() == pipeline.transformer.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in pipeline.transformer.state_dict().items())
    if style == "2b":
        longer = pipeline.transformer.patch_embed.pos_embedding
        assert torch.equal(longer[:, 4:], original.patch_embed.pos_embedding)
        assert not longer[:, : TEXT_LENGTH + 4].any()
    frames = frames_of(pipeline, PROMPTS[0], **SHORT)
    pipeline.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    assert np.array_equal(frames_of(MimirPipeline.from_pretrained(tmp_path), PROMPTS[0], **SHORT), frames)


def test_the_hub_download_takes_a_component_that_diffusers_does_not_ship(
    mimir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def fetch(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(mimir)

    monkeypatch.setattr("mimir_ray.model.pipeline.snapshot_download", fetch)
    pipeline = MimirPipeline.from_pretrained("someone/mimir", revision="v1")
    assert pipeline.token_fuser.config.text_dim == TEXT_DIM
    assert [(name, options["revision"]) for name, options in asked] == [("someone/mimir", "v1")]


def test_a_recipes_model_config_builds_it(base_2b: Path, llm: Path) -> None:
    config = ModelConfig(base=str(base_2b), llm=str(llm), dtype="bfloat16", language=LanguageConfig(max_new_tokens=4))
    pipeline = MimirPipeline.from_model_config(config)
    assert {pipeline.transformer.dtype, pipeline.token_fuser.dtype, pipeline.llm.dtype} == {torch.bfloat16}
    assert pipeline.token_fuser.config.llm_dim == LLM_DIM
    assert frames_of(pipeline, PROMPTS[0], **SHORT).shape == (1, 9, 64, 64, 3)
    assert MimirPipeline.from_model_config(ModelConfig(base=str(base_2b))).llm is None


def test_a_fuser_that_needs_an_llm_says_so(base_2b: Path) -> None:
    with pytest.raises(UserError, match=r"no llm is named: name one, or use FuserConfig.baseline"):
        MimirPipeline.from_base(base_2b, None, FuserConfig())


def test_the_seed_decides_the_answers_and_the_noise_whatever_the_batch(mimir: Path) -> None:
    pipeline = MimirPipeline.from_pretrained(mimir)
    together = frames_of(pipeline, PROMPTS, seed=[1, 2], **SHORT)
    alone = frames_of(pipeline, PROMPTS[1], seed=2, **SHORT)
    assert np.abs(together[1].astype(int) - alone[0].astype(int)).max() <= 2
    assert not np.array_equal(frames_of(pipeline, PROMPTS[1], seed=3, **SHORT), alone)


def test_lora_of_diffusers_loads_into_the_transformer(mimir: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    pipeline = MimirPipeline.from_pretrained(mimir)
    lora = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"], init_lora_weights=False)
    pipeline.transformer.add_adapter(lora)
    layers = peft.get_peft_model_state_dict(pipeline.transformer)
    adapted = frames_of(pipeline, PROMPTS[0], **SHORT)
    MimirPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    fresh = MimirPipeline.from_pretrained(mimir)
    assert not np.array_equal(frames_of(fresh, PROMPTS[0], **SHORT), adapted)
    fresh.load_lora_weights(tmp_path)
    assert np.array_equal(frames_of(fresh, PROMPTS[0], **SHORT), adapted)


def test_a_call_checks_its_size_before_it_works(mimir: Path) -> None:
    pipeline = MimirPipeline.from_pretrained(mimir)
    with pytest.raises(UserError, match="num_frames=13"):
        pipeline(PROMPTS[0], num_frames=13)
    assert pipeline.default_size() == (9, 64, 64)


def test_prompts_that_would_be_cut_are_refused_with_the_remedy(mimir: Path) -> None:
    pipeline = MimirPipeline.from_pretrained(mimir)
    pipeline.check_prompt("red " * (TEXT_LENGTH - 1))
    with pytest.raises(UserError, match=f"has {TEXT_LENGTH + 3} text tokens; this model reads {TEXT_LENGTH}: .* by 3"):
        pipeline("red " * (TEXT_LENGTH + 2))
