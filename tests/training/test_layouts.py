"""Every layout of CogVideoX is trained, exported and sampled: 2B, 5B and 1.5, whose patches span two latent frames."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline

from mimir_ray.config import UserError
from mimir_ray.model.config import FuserConfig, ModelConfig
from mimir_ray.model.pipeline import MimirPipeline
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.batches import Batch, Batches
from mimir_ray.training.data.samples import open_data
from mimir_ray.training.export import trained_pipeline
from mimir_ray.training.module import load_start
from mimir_ray.training.sizing.memory import read_sizes
from tests.tiny import ONE_POINT_FIVE, TEXT_LENGTH, frames_of, tiny_base, tiny_llm
from tests.training.tables import write_tables

LAYOUTS: dict[str, dict[str, Any]] = {
    "2b": {},
    "5b": {"rotary": True},
    "1.5": {"rotary": True, **ONE_POINT_FIVE},
    "1.5 with ofs": {"rotary": True, **ONE_POINT_FIVE, "ofs_embed_dim": 16},
}
CONFIG = TrainingConfig(steps=4, batch_size=4, learning_rate=1e-3, text_dropout=0.5, seed=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("layouts")
    tiny_llm(root / "llm")
    write_tables(root / "data", clips=9)
    for name, settings in LAYOUTS.items():
        tiny_base(root / name, **settings)
    return root


def model_of(root: Path, layout: str, fuser: FuserConfig | None = None) -> ModelConfig:
    return ModelConfig(base=str(root / layout), llm=str(root / "llm"), fuser=fuser or FuserConfig())


def batches_of(root: Path, start: Any) -> Batches:
    data = open_data(str(root / "data"), True, CONFIG.caption_weights)
    return Batches(
        data,
        CONFIG,
        scaling_factor=start.scaling_factor,
        timesteps=len(start.module.schedule),
        text_length=start.text_length,
        temporal_patch=start.temporal_patch,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_few_steps_and_the_video_after_them(layout: str, root: Path) -> None:
    model = model_of(root, layout)
    start = load_start(model, CONFIG)
    module, batches = start.module, batches_of(root, start)
    optimizer = torch.optim.AdamW(module.parameter_groups(CONFIG))
    for step in range(CONFIG.steps):
        loss, _ = module(batches.batch(step))
        loss.backward()
        without = {name for name, weight in module.named_parameters() if weight.grad is None}
        assert not without
        assert torch.isfinite(loss)
        optimizer.step()
        optimizer.zero_grad()
    trained = {name: weight.detach() for name, weight in module.named_parameters()}
    pipeline = trained_pipeline(trained, model, CONFIG)
    assert frames_of(pipeline, "a red ball", num_inference_steps=2, seed=1).shape == (1, 9, 64, 64, 3)
    patch = 2 if layout.startswith("1.5") else 1
    assert start.temporal_patch == patch
    assert module.flops(batches.batch(0)) > 0
    sizes = read_sizes(model)
    assert sizes.tokens((3, 16, 8, 8)) - sizes.text_tokens == (3 + patch - 1) // patch * 16


def test_the_frame_that_completes_a_patch_is_a_copy_of_the_first_with_noise_of_its_own(root: Path) -> None:
    plain, padded = (batches_of(root, load_start(model_of(root, name), CONFIG)) for name in ("5b", "1.5"))
    for step in range(3):
        one, two = plain.batch(step), padded.batch(step)
        assert two.latents.shape == two.noise.shape == (4, 4, 16, 8, 8)
        assert torch.equal(two.latents[:, 1:], one.latents)
        assert torch.equal(two.latents[:, 0], one.latents[:, 0])
        assert not torch.equal(two.noise[:, 0], two.noise[:, 1])
        assert torch.equal(two.timesteps, one.timesteps)
        assert torch.equal(two.keep, one.keep)


@pytest.mark.parametrize("layout", ["5b", "1.5"])
def test_the_loss_is_that_of_the_authors_trainer(layout: str, root: Path) -> None:
    """x_0 weighted by 1 / (1 - abar) over all latent frames, positions by diffusers' own pipeline."""
    start = load_start(model_of(root, layout), CONFIG)
    batch: Batch = batches_of(root, start).batch(0)
    pipeline = CogVideoXPipeline.from_pretrained(root / layout)
    rotary = pipeline._prepare_rotary_positional_embeddings(64, 64, batch.latents.shape[1], torch.device("cpu"))
    scheduler = pipeline.scheduler
    with torch.no_grad():
        _, ours = start.module(batch)
        noisy = scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        predicted = pipeline.transformer(
            hidden_states=noisy,
            encoder_hidden_states=start.module.token_fuser(batch.tokens, batch.keep),
            timestep=batch.timesteps,
            image_rotary_emb=rotary,
            return_dict=False,
        )[0]
    clean = scheduler.get_velocity(predicted, noisy, batch.timesteps)
    weight = 1 / (1 - scheduler.alphas_cumprod[batch.timesteps]).view(-1, 1, 1, 1, 1)
    theirs = (weight * (clean - batch.latents) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-3, atol=1e-4)


def test_the_baseline_trains_its_dropped_text_as_it_samples(root: Path) -> None:
    """The empty prompt by T5, in the training of a plain base, in its export and where diffusers samples it."""
    model = model_of(root, "5b", FuserConfig.baseline())
    start = load_start(model, CONFIG)
    batch = batches_of(root, start).batch(0)
    dropped = batch.keep == 0
    assert dropped.any()
    assert not dropped.all()
    theirs = CogVideoXPipeline.from_pretrained(root / "5b")
    with torch.no_grad():
        _, empty = theirs.encode_prompt("a red ball", max_sequence_length=TEXT_LENGTH)
        condition = start.module.token_fuser(batch.tokens, batch.keep)
    assert torch.equal(condition[dropped], empty.expand(int(dropped.sum()), -1, -1))
    assert torch.equal(condition[~dropped], batch.tokens.t5[~dropped])

    pipeline = trained_pipeline({}, model, CONFIG)
    assert torch.equal(pipeline.token_fuser.null_token, start.module.token_fuser.null_token)
    again = load_start(model.model_copy(update={"base": _saved(pipeline, root / "export")}), CONFIG)
    assert torch.equal(again.module.token_fuser.null_token, start.module.token_fuser.null_token)


def test_a_mimir_trains_its_dropped_text_with_what_its_checkpoint_says(root: Path) -> None:
    zeros = load_start(model_of(root, "5b"), CONFIG).module.token_fuser
    assert not zeros.null_token.any()
    wanted = FuserConfig(null_condition="empty_prompt")
    fresh = MimirPipeline.from_model_config(model_of(root, "5b", wanted))
    base = _saved(fresh, root / "fresh")
    model = model_of(root, "5b", wanted).model_copy(update={"base": base})
    kept = load_start(model, CONFIG).module.token_fuser
    assert torch.equal(kept.null_token, fresh.token_fuser.null_token)
    assert kept.null_token.abs().min() > 0
    with pytest.raises(UserError, match='null_condition was "empty_prompt" and is now "zeros"'):
        load_start(model.model_copy(update={"fuser": FuserConfig()}), CONFIG)


def test_weights_of_a_variant_are_trained_and_exported(root: Path, tmp_path: Path) -> None:
    CogVideoXPipeline.from_pretrained(root / "5b").save_pretrained(tmp_path, variant="fp16")
    model = model_of(root, "5b").model_copy(update={"base": str(tmp_path)})
    batches = batches_of(root, load_start(model, CONFIG))
    losses = [load_start(m, CONFIG).module(batches.batch(0))[0] for m in (model, model_of(root, "5b"))]
    assert torch.equal(*losses)
    assert np.isfinite(float(losses[0].detach()))
    assert trained_pipeline({}, model, CONFIG).transformer.dtype == torch.float32


def _saved(pipeline: Any, folder: Path) -> str:
    pipeline.save_pretrained(folder)
    return str(folder)
