"""The page of an export tells what is known, and says where nothing is."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import metadata_load

from mimir_ray.model.config import FuserConfig, ModelConfig
from mimir_ray.shapes.weights import base_dir, mimir_dir
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.export.card import model_card
from mimir_ray.training.reporting.validation import Validation, ValidationVideo
from mimir_ray.training.state.run import Run

ACCOUNT = {"step": 30, "weights": "average"}
PAGE = """---
license: other
license_name: cogvideox-license
license_link: https://example.org/LICENSE
base_model: zai-org/CogVideoX-5b
---
# A page
"""


def run(model: ModelConfig, **fields: Any) -> Run:
    training = TrainingConfig(steps=40, batch_size=8, learning_rate=1e-4, ema_decay=0.9, **fields)
    return Run(model=model, training=training, tables={"latents": "abc", "t5_tokens": "def"}, samples="0123")


def front(card: str, path: Path) -> dict[str, Any]:
    path.write_text(card)
    matter: dict[str, Any] = metadata_load(path)
    return matter


def test_licence_and_origin_are_those_of_the_bases_page(tmp_path: Path) -> None:
    base = tmp_path / "five"
    base.mkdir()
    (base / "README.md").write_text(PAGE)
    card = model_card(run(ModelConfig(base=str(base), llm="microsoft/Phi-3.5-mini-instruct")), ACCOUNT, None)
    said = front(card, tmp_path / "README.md")
    assert (said["license"], said["license_name"]) == ("other", "cogvideox-license")
    assert said["license_link"] == "https://example.org/LICENSE"
    assert said["base_model"] == ["zai-org/CogVideoX-5b", "microsoft/Phi-3.5-mini-instruct"]
    assert (said["library_name"], said["pipeline_tag"]) == ("diffusers", "text-to-video")
    assert "the language model in it: unknown" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize("page", [None, "no front matter", "---\nlicense: [\n---\n"])
def test_what_is_not_known_is_said(page: str | None, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    if page is not None:
        (base / "README.md").write_text(page)
    card = model_card(run(ModelConfig(base=str(base))), ACCOUNT, None)
    said = front(card, tmp_path / "README.md")
    assert said["license"] == "unknown"
    assert "base_model" not in said
    assert "`base`, where its T5, VAE and transformer come from: unknown; ask" in card
    assert "These weights have not been scored." in card
    hub = front(model_card(run(ModelConfig(base="zai-org/CogVideoX-2b")), ACCOUNT, None), tmp_path / "README.md")
    assert (hub["license"], hub["base_model"]) == (
        "unknown",
        ["zai-org/CogVideoX-2b"],
    )  # no network: its page is not read


def test_the_shapes_world_and_a_part_of_a_checkpoint_have_a_licence(tmp_path: Path) -> None:
    card = model_card(run(ModelConfig(base=base_dir(), llm=f"{mimir_dir()}/llm")), ACCOUNT, None)
    assert front(card, tmp_path / "README.md")["license"] == "apache-2.0"
    assert card.count("apache-2.0") == 3


def test_it_says_how_to_load_it_what_it_learnt_from_and_how_it_scored() -> None:
    videos = (
        ValidationVideo("a red | ball", 7, "00.mp4", 0.5),
        ValidationVideo("two\nlines", 8, "01.mp4", 1.0),
        ValidationVideo("failed", 9, reason="no memory"),
    )
    validation = Validation(30, "folder", videos)
    card = model_card(run(ModelConfig(base="zai-org/CogVideoX-2b"), train="lora"), ACCOUNT, validation)
    assert "MimirPipeline.from_pretrained(" in card
    assert "DiffusionPipeline.from_pretrained(" in card
    assert "30 of 40 steps of 8 clips: 240 samples" in card
    assert "adapters on the transformer, and the token fuser; here is the moving average" in card
    assert "`latents` abc, `t5_tokens` def; samples `0123`" in card
    assert "Validation at step 30: 0.750 on average" in card
    assert "| a red \\| ball | 7 | 0.500 |\n| two lines | 8 | 1.000 |\n" in card
    assert "failed" not in card
    apart = model_card(run(ModelConfig(base="zai-org/CogVideoX-2b"), train="lora"), ACCOUNT, None, form="unmerged")
    assert "pytorch_lora_weights.safetensors" in apart
    assert "trust_remote_code" not in apart


def test_the_page_of_what_was_learnt_says_what_to_put_it_on(tmp_path: Path) -> None:
    fuser = FuserConfig(stabilizer=False)
    model = ModelConfig(base="zai-org/CogVideoX-2b", llm="microsoft/Phi-3.5-mini-instruct", fuser=fuser)
    card = model_card(run(model, train="lora"), ACCOUNT, None, form="adapter")
    said = front(card, tmp_path / "README.md")
    assert said["base_model_relation"] == "adapter"
    assert "lora" in said["tags"]
    assert 'from_base("zai-org/CogVideoX-2b", llm="microsoft/Phi-3.5-mini-instruct", fuser=FuserConfig(stab' in card
    assert "from mimir_ray.model.config import FuserConfig\nfrom mimir_ray.model.pipeline" in card
    assert 'load_lora_weights("PATH")' in card
    assert "trust_remote_code" not in card
    on_mimir = model_card(run(model, train="fuser"), ACCOUNT, None, form="adapter", on_mimir=True)
    assert 'MimirPipeline.from_pretrained("zai-org/CogVideoX-2b")' in on_mimir
