"""Which checkpoints are taken, and what is said of the others before anything is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    DPMSolverMultistepScheduler,
    UNet3DConditionModel,
)

from mimir_ray.config import UserError
from mimir_ray.model.base import check_base, read_base, variant_of
from mimir_ray.model.pipeline import MimirPipeline
from tests.model.conftest import PROMPTS
from tests.tiny import ONE_POINT_FIVE, frames_of, tiny_transformer

SHORT: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}


@pytest.fixture
def copy(base_2b: Path, tmp_path: Path) -> Path:
    """A base to be spoilt."""
    return Path(shutil.copytree(base_2b, tmp_path / "base"))


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def other_scheduler(base: Path) -> None:
    pipeline = CogVideoXPipeline.from_pretrained(base)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(base)


def image_to_video(base: Path) -> None:
    pipeline = CogVideoXPipeline.from_pretrained(base)
    parts = pipeline.components | {"transformer": tiny_transformer(in_channels=32)}
    CogVideoXImageToVideoPipeline(**parts).save_pretrained(base)


def called_text_to_video(base: Path) -> None:
    image_to_video(base)
    rewrite(base / "model_index.json", _class_name="CogVideoXPipeline")


def wan(base: Path) -> None:
    parts = {"transformer": ["diffusers", "WanTransformer3DModel"], "vae": ["diffusers", "AutoencoderKLWan"]}
    rewrite(base / "model_index.json", _class_name="WanPipeline", **parts)


def modelscope(base: Path) -> None:
    rewrite(base / "model_index.json", _class_name="TextToVideoSDPipeline", unet=["diffusers", "UNet3DConditionModel"])
    index = json.loads((base / "model_index.json").read_text())
    del index["transformer"]
    (base / "model_index.json").write_text(json.dumps(index))
    shutil.rmtree(base / "transformer")
    UNet3DConditionModel(block_out_channels=(32,) * 4, norm_num_groups=8).save_config(base / "unet")


def custom_wan(base: Path) -> None:
    rewrite(base / "model_index.json", _class_name=["pipeline", "OurPipeline"], vae=["diffusers", "AutoencoderKLWan"])


def clip_text(base: Path) -> None:
    rewrite(base / "model_index.json", text_encoder=["transformers", "CLIPTextModel"])


def patches_of_four(base: Path) -> None:
    rewrite(base / "transformer" / "config.json", patch_size_t=4, use_rotary_positional_embeddings=True)


def patches_with_added_positions(base: Path) -> None:
    rewrite(base / "transformer" / "config.json", **ONE_POINT_FIVE)


def no_index(base: Path) -> None:
    (base / "model_index.json").unlink()


def no_configuration(base: Path) -> None:
    (base / "vae" / "config.json").unlink()


UNFIT: list[tuple[Callable[[Path], None], str]] = [
    (
        other_scheduler,
        r"\(CogVideoXPipeline\) .* scheduler is a DPMSolverMultistepScheduler, .* CogVideoXDDIMScheduler or",
    ),
    (image_to_video, r"not for text alone: its transformer reads 32 channels and its VAE makes 16"),
    (called_text_to_video, r"not for text alone: its transformer reads 32 channels and its VAE makes 16"),
    (wan, r"\(WanPipeline\) .* transformer is a WanTransformer3DModel, .* CogVideoXTransformer3DModel; name a"),
    (modelscope, r"\(TextToVideoSDPipeline\) cannot be run: it has no transformer"),
    (custom_wan, r"\(OurPipeline\) cannot be run: its vae is a AutoencoderKLWan"),
    (clip_text, r"text_encoder is a CLIPTextModel, and Mimir needs a T5EncoderModel"),
    (patches_of_four, r"patch_size_t=4 and rotary positions"),
    (patches_with_added_positions, r"patch_size_t=2 and added positions"),
    (no_index, r"has no model_index\.json; name a CogVideoX"),
    (no_configuration, r"has no vae/config\.json; name a CogVideoX"),
]


@pytest.mark.parametrize(("spoil", "message"), UNFIT, ids=[spoil.__name__ for spoil, _ in UNFIT])
def test_a_base_that_cannot_be_run_is_refused_with_its_name(
    spoil: Callable[[Path], None], message: str, copy: Path
) -> None:
    spoil(copy)
    for road in (read_base, check_base, MimirPipeline.from_base):
        with pytest.raises(UserError, match=message) as refused:
            road(copy)
        assert str(copy) in str(refused.value)
        assert "name a " in str(refused.value) or "load it as a CogVideoXPipeline" in str(refused.value)


def test_the_remedy_for_another_scheduler_works(copy: Path, tmp_path: Path) -> None:
    expected = frames_of(MimirPipeline.from_base(copy), PROMPTS[0], **SHORT)
    other_scheduler(copy)
    remedy = r"pipeline.scheduler = CogVideoXDDIMScheduler.from_config\(pipeline.scheduler.config\), .* save_pretrained"
    with pytest.raises(UserError, match=remedy):
        check_base(copy)
    pipeline = CogVideoXPipeline.from_pretrained(copy)
    pipeline.scheduler = CogVideoXDDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path / "mended")
    assert np.array_equal(frames_of(MimirPipeline.from_base(tmp_path / "mended"), PROMPTS[0], **SHORT), expected)


@pytest.mark.parametrize("style", ["2b", "5b", "15"])
def test_text_to_video_is_taken(base: Path) -> None:
    found = check_base(base)
    assert not found.is_mimir
    assert found.vae["latent_channels"] == 16
    assert found.scheduler in ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")


def test_a_mimir_is_known_by_its_fuser_whatever_its_pipeline_is_called(mimir: Path, tmp_path: Path) -> None:
    renamed = Path(shutil.copytree(mimir, tmp_path / "mimir"))
    rewrite(renamed / "model_index.json", _class_name=["pipeline", "MimirPipeline"])
    assert check_base(renamed).is_mimir


@pytest.mark.parametrize("shard", ["5GB", "20KB"], ids=["whole", "shards"])
def test_weights_of_one_variant_alone_are_read(shard: str, base_2b: Path, tmp_path: Path) -> None:
    whole = CogVideoXPipeline.from_pretrained(base_2b)
    whole.save_pretrained(tmp_path, variant="fp16", max_shard_size=shard)
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > (shard == "20KB")
    assert {variant_of(tmp_path, part) for part in ("transformer", "vae", "text_encoder")} == {"fp16"}
    expected = frames_of(MimirPipeline.from_base(base_2b), PROMPTS[0], **SHORT)
    assert np.array_equal(frames_of(MimirPipeline.from_base(tmp_path), PROMPTS[0], **SHORT), expected)


def test_variants_beside_usual_names_are_left_alone(copy: Path) -> None:
    CogVideoXPipeline.from_pretrained(copy, dtype=torch.float16).save_pretrained(copy, variant="fp16")
    assert variant_of(copy, "transformer") is None
    assert variant_of(copy, "text_encoder") is None
    assert variant_of("zai-org/CogVideoX-5b", "vae") is None


def test_a_mixed_folder_is_read_part_by_part(copy: Path) -> None:
    file = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    expected = frames_of(MimirPipeline.from_base(copy), PROMPTS[0], **SHORT)
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert np.array_equal(frames_of(MimirPipeline.from_base(copy), PROMPTS[0], **SHORT), expected)


def test_weights_that_are_lacking_or_unclear_are_said(copy: Path) -> None:
    file = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    for variant in ("fp16", "bf16"):
        shutil.copy(file, file.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    file.unlink()
    with pytest.raises(UserError, match=r"transformer has weights of the variants bf16, fp16 and none"):
        check_base(copy)
    for variant in ("fp16", "bf16"):
        file.with_name(f"diffusion_pytorch_model.{variant}.safetensors").unlink()
    assert read_base(copy).transformer["in_channels"] == 16
    with pytest.raises(UserError, match=r"transformer has no weights .* download complete"):
        check_base(copy)


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"nobody/nothing is not on this machine and the hub cannot be reached"):
        read_base("nobody/nothing")
