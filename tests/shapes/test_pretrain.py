"""The recipe of the shipped models runs end to end (a few steps of each stage) and makes what Mimir starts from."""

import json
import logging
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from mimir_ray.model.config import FuserConfig, LanguageConfig
from mimir_ray.model.pipeline import MimirPipeline
from mimir_ray.shapes import language
from mimir_ray.shapes.pretrain.config import STAGES, BaseConfig, PretrainConfig, TextConfig, VaeConfig
from mimir_ray.shapes.pretrain.run import pretrain
from mimir_ray.shapes.pretrain.text_models import TEXT_LENGTH
from mimir_ray.shapes.pretrain.vae import build_vae, normalise_latents, pixels
from mimir_ray.shapes.world import MODEL_FRAMES, render, sample_scene
from tests.tiny import frames_of

TINY = PretrainConfig(
    threads=1,
    t5=TextConfig(steps=2, batch_size=4),
    llm=TextConfig(steps=2, batch_size=4),
    vae=VaeConfig(crop_steps=1, crop_batch=1, full_steps=1, full_batch=1, decoder_steps=1),
    base=BaseConfig(scenes=4, samples=8, batch_size=4),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(tmp_path_factory.mktemp("models"), TINY)


def test_base_and_llm_make_a_mimir_that_generates(models: Path) -> None:
    pipeline = MimirPipeline.from_base(models / "base", models / "llm", FuserConfig(), LanguageConfig(max_new_tokens=4))
    frames = frames_of(pipeline, "apple over a blue square", num_inference_steps=2)
    assert frames.shape == (1, MODEL_FRAMES, 64, 64, 3)


def test_a_second_call_reuses_every_stage(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in models.rglob("*") if path.is_file()}
    with caplog.at_level(logging.INFO):
        pretrain(models, TINY)
    assert {path: path.stat().st_mtime_ns for path in models.rglob("*") if path.is_file()} == before
    assert caplog.text.count("already done") == len(STAGES)


def test_the_log_names_every_trained_stage(models: Path) -> None:
    lines = [json.loads(line) for line in (models / "pretrain.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == set(STAGES) - {"tokenizers"}
    assert all(line["loss"] >= 0 for line in lines)


def test_words_of_the_world_are_few_tokens_and_any_text_has_some(models: Path) -> None:
    t5, llm = AutoTokenizer.from_pretrained(models / "t5_tokenizer"), AutoTokenizer.from_pretrained(models / "llm")
    rng = random.Random(0)
    for _ in range(200):
        scene = sample_scene(rng)
        for caption in (language.long_caption(scene, rng), language.short_caption(scene, rng, "held")):
            asked = llm.apply_chat_template(
                [{"role": "user", "content": caption}], add_generation_prompt=True, return_dict=False
            )
            answer = llm(language.explanation(scene, rng), add_special_tokens=False).input_ids
            assert len(t5(caption).input_ids) <= TEXT_LENGTH
            assert len(asked) + len(answer) + 1 <= TEXT_LENGTH
    assert t5.decode(t5("Zebra, 42 €").input_ids, skip_special_tokens=True).strip() == "zebra, 42 €"


def test_normalised_latents_have_unit_variance_and_decode_as_before() -> None:
    torch.manual_seed(0)
    vae = build_vae().eval()
    clip = pixels([render(sample_scene(random.Random(1)), MODEL_FRAMES)])
    with torch.no_grad():
        before = vae.decode(vae.encode(clip).latent_dist.mean).sample
        normalise_latents(vae, random.Random(2), clips=16)
        latents = vae.encode(clip).latent_dist.mean
        after = vae.decode(latents).sample
    assert 0.2 < float(latents.std()) < 3
    inner = (slice(None), slice(None), slice(None), slice(16, 48), slice(16, 48))
    assert float((after - before)[inner].abs().max()) < 0.15 * float(before.abs().max())
