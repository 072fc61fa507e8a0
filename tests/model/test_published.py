"""The configurations that ship are those of the models that recipes name."""

from pathlib import Path

import pytest
from accelerate import init_empty_weights
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from transformers import AutoConfig, AutoModelForCausalLM, T5Config, T5EncoderModel

from mimir_ray.model.base import read_base, read_json
from mimir_ray.model.config import ModelConfig
from mimir_ray.model.published import CONFIGS, described
from mimir_ray.recipes import RECIPES, by_name
from tests.model.test_real_shapes import PARAMETERS


@pytest.mark.parametrize("name", ["mimir_2b", "mimir_5b"])
def test_they_build_the_published_models(name: str) -> None:
    model = described(by_name(name).model)
    base = read_base(model.base)
    with init_empty_weights(include_buffers=True):
        transformer = CogVideoXTransformer3DModel.from_config(base.transformer)
        vae = AutoencoderKLCogVideoX.from_config(base.vae)
        t5 = T5EncoderModel(T5Config.from_dict(read_json(model.base, "text_encoder/config.json")))
        llm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model.llm))
    counts = [sum(weight.numel() for weight in made.parameters()) for made in (transformer, vae, t5, llm)]
    assert counts[0] == pytest.approx(PARAMETERS[name.removeprefix("mimir_")], rel=5e-3)
    assert counts[1] == pytest.approx(215.6e6, rel=5e-3)
    assert counts[2] == pytest.approx(4.76e9, rel=5e-3)
    assert counts[3] == pytest.approx(3.82e9, rel=5e-3)
    differs = ("num_attention_heads", "num_layers", "use_rotary_positional_embeddings")
    with init_empty_weights():
        usual = CogVideoXTransformer3DModel(**{key: base.transformer[key] for key in differs}).config
    shipped = {key: value for key, value in base.transformer.items() if key != "_class_name"}
    assert shipped == {key: usual[key] for key in shipped}, "all else is diffusers' default, as published"


def test_every_recipe_of_a_model_of_the_hub_is_described() -> None:
    for name in RECIPES:
        for place in (described(by_name(name).model).base, described(by_name(name).model).llm):
            assert place is not None
            assert Path(place).is_dir()


def test_nothing_else_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "zai-org/CogVideoX-5b"
    assert described(ModelConfig(base=name)).base == str(CONFIGS / name)
    for model in (
        ModelConfig(base="owner/other", llm="owner/llm"),
        ModelConfig(base=name, revision="refs/pr/1"),
        ModelConfig(base="zai-org", llm=""),
        ModelConfig(base=str(tmp_path)),
    ):
        assert described(model) == model
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert described(ModelConfig(base=name)).base == name, "a directory of that name comes first"
