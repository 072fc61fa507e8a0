"""``MimirPipeline``: built from a base, saved, loaded, and equal to its base while it is fresh."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline

from mimir_ray.config import UserError
from mimir_ray.model.config import FuserConfig, LanguageConfig, ModelConfig
from mimir_ray.model.pipeline import MimirPipeline
from tests.model.conftest import PROMPTS
from tests.tiny import LLM_DIM, TEXT_DIM, TEXT_LENGTH, tiny_scheduler

SHORT: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0}


def base(style: str, base_2b: Path, base_5b: Path) -> Path:
    return base_2b if style == "2b" else base_5b


@pytest.mark.parametrize("style", ["2b", "5b"])
@pytest.mark.parametrize("dpm", [False, True], ids=["ddim", "dpm"])
def test_a_fresh_mimir_without_stabilizer_equals_its_base_bit_for_bit(
    style: str, dpm: bool, base_2b: Path, base_5b: Path, llm: Path
) -> None:
    ours = MimirPipeline.from_base(
        base(style, base_2b, base_5b), llm, FuserConfig(stabilizer=False), LanguageConfig(max_new_tokens=6)
    )
    theirs = CogVideoXPipeline.from_pretrained(base(style, base_2b, base_5b))
    ours.scheduler = theirs.scheduler = tiny_scheduler(dpm=dpm)
    theirs.set_progress_bar_config(disable=True)
    frames = ours(PROMPTS, seed=[5, 6], **SHORT).frames
    with torch.no_grad():
        embeds, _ = theirs.encode_prompt(
            PROMPTS, do_classifier_free_guidance=False, max_sequence_length=TEXT_LENGTH, num_videos_per_prompt=1
        )
    expected = theirs(
        prompt_embeds=embeds,
        negative_prompt_embeds=torch.zeros_like(embeds),
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
        output_type="pt",
        **SHORT,
    ).frames
    expected = (expected * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
    assert frames.shape == (2, 9, 64, 64, 3)
    assert np.array_equal(frames, expected)


@pytest.mark.parametrize("style", ["2b", "5b"])
def test_the_base_alone_runs_without_an_llm(
    style: str, base_2b: Path, base_5b: Path, llm: Path, tmp_path: Path
) -> None:
    path = base(style, base_2b, base_5b)
    alone = MimirPipeline.from_base(path)
    assert alone.llm is None
    assert not alone.token_fuser.config.decoder
    frames = alone(PROMPTS[0], seed=5, **SHORT).frames
    fresh = MimirPipeline.from_base(path, llm, FuserConfig(stabilizer=False), LanguageConfig(max_new_tokens=6))
    assert np.array_equal(fresh(PROMPTS[0], seed=5, **SHORT).frames, frames)
    alone.save_pretrained(tmp_path)
    loaded = MimirPipeline.from_pretrained(tmp_path)
    assert loaded.llm is None
    assert np.array_equal(loaded(PROMPTS[0], seed=5, **SHORT).frames, frames)


@pytest.mark.parametrize("style", ["2b", "5b"])
def test_the_stabilizer_gets_room_and_the_weights_stay(
    style: str, base_2b: Path, base_5b: Path, llm: Path, tmp_path: Path
) -> None:
    path = base(style, base_2b, base_5b)
    pipeline = MimirPipeline.from_base(path, llm, language=LanguageConfig(max_new_tokens=6))
    original = CogVideoXPipeline.from_pretrained(path).transformer
    assert pipeline.transformer.config.max_text_seq_length == TEXT_LENGTH + 4 * (style == "2b")
    weights = original.state_dict()
    assert weights.keys() == pipeline.transformer.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in pipeline.transformer.state_dict().items())
    if style == "2b":
        longer = pipeline.transformer.patch_embed.pos_embedding
        assert torch.equal(longer[:, 4:], original.patch_embed.pos_embedding)
        assert not longer[:, : TEXT_LENGTH + 4].any()
    frames = pipeline(PROMPTS[0], **SHORT).frames
    pipeline.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    assert np.array_equal(MimirPipeline.from_pretrained(tmp_path)(PROMPTS[0], **SHORT).frames, frames)


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
    assert pipeline(PROMPTS[0], **SHORT).frames.shape == (1, 9, 64, 64, 3)
    assert MimirPipeline.from_model_config(ModelConfig(base=str(base_2b))).llm is None


def test_a_fuser_that_needs_an_llm_says_so(base_2b: Path) -> None:
    with pytest.raises(UserError, match=r"no llm is named: name one, or use FuserConfig.baseline"):
        MimirPipeline.from_base(base_2b, None, FuserConfig())


def test_the_seed_decides_the_answers_and_the_noise_whatever_the_batch(mimir: Path) -> None:
    pipeline = MimirPipeline.from_pretrained(mimir)
    together = pipeline(PROMPTS, seed=[1, 2], **SHORT).frames
    alone = pipeline(PROMPTS[1], seed=2, **SHORT).frames
    assert np.abs(together[1].astype(int) - alone[0].astype(int)).max() <= 2
    assert not np.array_equal(pipeline(PROMPTS[1], seed=3, **SHORT).frames, alone)


def test_progress_is_reported_and_an_exception_cancels(mimir: Path) -> None:
    pipeline = MimirPipeline.from_pretrained(mimir)
    seen: list[tuple[int, int]] = []
    pipeline(PROMPTS[0], on_step=lambda done, total: seen.append((done, total)), **SHORT)
    assert seen == [(1, 3), (2, 3), (3, 3)]

    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(PROMPTS[0], on_step=cancel, **SHORT)


def test_lora_of_diffusers_loads_into_the_transformer(mimir: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    pipeline = MimirPipeline.from_pretrained(mimir)
    lora = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"], init_lora_weights=False)
    pipeline.transformer.add_adapter(lora)
    layers = peft.get_peft_model_state_dict(pipeline.transformer)
    adapted = pipeline(PROMPTS[0], **SHORT).frames
    MimirPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    fresh = MimirPipeline.from_pretrained(mimir)
    assert not np.array_equal(fresh(PROMPTS[0], **SHORT).frames, adapted)
    fresh.load_lora_weights(tmp_path)
    assert np.array_equal(fresh(PROMPTS[0], **SHORT).frames, adapted)


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
