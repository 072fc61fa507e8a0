"""Aesthetic score: CLIP's features as transformers computes them, the head as its file says."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from mimir_ray.config import UserError
from mimir_ray.curation.models.aesthetic import Aesthetic, load_head
from mimir_ray.curation.models.config import AestheticConfig, Checkpoint
from mimir_ray.curation.models.loading import Frames, images
from tests.curation.models.tiny import CLIP_WIDTH, head_layers, tiny_clip, tiny_head

FRAMES: Frames = np.random.default_rng(0).integers(0, 256, (3, 40, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("aesthetic")
    tiny_clip(path / "clip")
    tiny_head(path / "head.pth", CLIP_WIDTH)
    return path


def config(folder: Path, **given: object) -> AestheticConfig:
    clip = Checkpoint(name=str(folder / "clip"), device="cpu")
    return AestheticConfig(**{"clip": clip, "head": str(folder / "head.pth"), **given})


def test_features_are_those_of_transformers(folder: Path) -> None:
    pixels = CLIPImageProcessorPil.from_pretrained(folder / "clip")(images(FRAMES), return_tensors="pt").pixel_values
    model = CLIPModel.from_pretrained(folder / "clip").eval()
    with torch.no_grad():
        direct = model(input_ids=torch.tensor([[31, 0, 32]]), pixel_values=pixels).image_embeds
    features = Aesthetic(config(folder)).clip.image_features(FRAMES)
    torch.testing.assert_close(features, direct)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(3))


def test_the_score_is_the_head_on_the_features(folder: Path) -> None:
    scorer = Aesthetic(config(folder))
    state = torch.load(folder / "head.pth", weights_only=True)
    values = scorer.clip.image_features(FRAMES).double().numpy()
    for layer in (0, 2, 4, 6, 7):
        values = values @ state[f"layers.{layer}.weight"].double().numpy().T
        values += state[f"layers.{layer}.bias"].double().numpy()
    assert values.shape == (3, 1)
    assert np.ptp(values) > 1e-4
    assert scorer(FRAMES) == pytest.approx((values.mean(), values.min()), abs=1e-6)


def test_the_order_and_number_of_frames_do_not_matter(folder: Path) -> None:
    scorer = Aesthetic(config(folder))
    assert scorer(FRAMES[::-1]) == pytest.approx(scorer(FRAMES), abs=1e-6)
    alone = [scorer(FRAMES[i : i + 1]) for i in range(3)]
    assert scorer(FRAMES).min == pytest.approx(min(score.mean for score in alone), abs=1e-6)


def test_safetensors_hold_the_same_head(folder: Path) -> None:
    save_file(torch.load(folder / "head.pth", weights_only=True), folder / "head.safetensors")
    safe = config(folder, head=str(folder / "head.safetensors"))
    assert Aesthetic(safe)(FRAMES) == Aesthetic(config(folder))(FRAMES)


def test_half_precision_changes_little(folder: Path) -> None:
    half = config(folder, clip=Checkpoint(name=str(folder / "clip"), dtype="bfloat16", device="cpu"))
    assert Aesthetic(half)(FRAMES) == pytest.approx(Aesthetic(config(folder))(FRAMES), abs=0.02)


def test_the_published_sizes_fit() -> None:
    """ViT-L/14 has 427,616,513 parameters; its features and the head's published layers meet at 768."""
    body = {"num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096, "hidden_size": 1024}
    text = {"num_attention_heads": 12, "intermediate_size": 3072, "hidden_size": 768}
    with torch.device("meta"):
        clip = CLIPModel(
            CLIPConfig(vision_config={**body, "patch_size": 14}, text_config=text, projection_dim=768)
        ).eval()
        assert sum(parameter.numel() for parameter in clip.parameters()) == 427_616_513
        features = clip.get_image_features(torch.zeros(2, 3, 224, 224)).pooler_output
        assert head_layers(768)(features).shape == (2, 1)


def test_the_published_head_loads(tmp_path: Path) -> None:
    published, features = head_layers(768), torch.randn(2, 768)
    head = load_head(tiny_head(tmp_path / "head.pth", 768), 768)
    assert [tuple(layer.weight.shape) for layer in head] == [(1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16)]
    torch.testing.assert_close(head(features), published(features))


def test_a_head_for_another_clip_is_refused(folder: Path, tmp_path: Path) -> None:
    tiny_head(tmp_path / "wide.pth", 768)
    with pytest.raises(UserError, match=r"wide\.pth reads features of width 768, and CLIP gives 24: sac\+logos"):
        Aesthetic(config(folder, head=str(tmp_path / "wide.pth")))


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"layers.0.weight": torch.zeros(4, CLIP_WIDTH)},
        {"layers.0.weight": torch.zeros(4, CLIP_WIDTH), "layers.0.bias": torch.zeros(4)},
        {
            "layers.0.weight": torch.zeros(4, CLIP_WIDTH),
            "layers.0.bias": torch.zeros(4),
            "layers.1.weight": torch.zeros(1, 5),
            "layers.1.bias": torch.zeros(1),
        },
    ],
)
def test_a_file_that_is_no_head_is_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, tmp_path / "head.pth")
    with pytest.raises(UserError, match="is no aesthetic head"):
        load_head(tmp_path / "head.pth", CLIP_WIDTH)


def test_a_file_with_code_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "head.pth").write_bytes(pickle.dumps(Path, protocol=2))
    with pytest.raises(UserError, match="cannot read the aesthetic head"):
        load_head(tmp_path / "head.pth", CLIP_WIDTH)


@pytest.mark.parametrize(
    ("head", "message"),
    [("nowhere.pth", "give the path of sac"), ("no/where/head.pth", "here or on the hub")],
)
def test_a_head_that_is_nowhere_is_named(folder: Path, head: str, message: str) -> None:
    with pytest.raises(UserError, match=f"there is no aesthetic head at {head}.*{message}"):
        Aesthetic(config(folder, head=head))


def test_a_model_that_is_nowhere_is_named(folder: Path) -> None:
    nowhere = str(folder / "nowhere")
    with pytest.raises(UserError, match=f"cannot load {nowhere}.*name a model's directory or hub id"):
        Aesthetic(config(folder, clip=Checkpoint(name=nowhere)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_named(folder: Path) -> None:
    clip = Checkpoint(name=str(folder / "clip"), device="cuda")
    with pytest.raises(UserError, match="device is cuda, but this process sees no GPU"):
        Aesthetic(config(folder, clip=clip))


def test_half_a_model_is_refused(folder: Path, tmp_path: Path) -> None:
    """transformers itself would go on with random weights in the other half."""
    half = Path(shutil.copytree(folder / "clip", tmp_path / "half"))
    weights = load_file(half / "model.safetensors")
    seeing = {name: value for name, value in weights.items() if not name.startswith("text_")}
    save_file(seeing, half / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"half lacks \d+ weights of a CLIPModel, such as text_\S+; name a model"):
        Aesthetic(config(folder, clip=Checkpoint(name=str(half), device="cpu")))
