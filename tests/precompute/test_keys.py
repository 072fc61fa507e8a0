"""What makes a table stale, and what does not."""

import shutil
from pathlib import Path

import pytest

from mimir_ray.config import override
from mimir_ray.model.config import FuserConfig, ModelConfig
from mimir_ray.precompute.keys import table_keys
from tests.precompute.world import CONFIG, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_model(tmp_path_factory.mktemp("model"))


def test_a_base_without_llm_has_no_llm_tokens(model: ModelConfig) -> None:
    base = ModelConfig(base=model.base, fuser=FuserConfig.baseline())
    keys = table_keys(base, CONFIG)
    assert list(keys) == ["latents", "t5_tokens"]
    assert keys == {name: key for name, key in table_keys(model, CONFIG).items() if name != "llm_tokens"}


def test_a_moved_checkpoint_is_the_same_and_changed_weights_are_not(model: ModelConfig, tmp_path: Path) -> None:
    shutil.copytree(model.base, tmp_path / "base")
    moved = model.model_copy(update={"base": str(tmp_path / "base")})
    assert table_keys(moved, CONFIG) == table_keys(model, CONFIG)
    weights = tmp_path / "base" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    changed = {name for name, key in table_keys(moved, CONFIG).items() if key != table_keys(model, CONFIG)[name]}
    assert changed == {"latents"}


def test_tiles_decide_latents_and_slices_decide_nothing(model: ModelConfig) -> None:
    keys = table_keys(model, CONFIG)
    assert table_keys(model, override(CONFIG, ["vae_slicing=true"])) == keys
    tiled = table_keys(model, override(CONFIG, ["vae_tiling=true"]))
    assert {name for name in keys if tiled[name] != keys[name]} == {"latents"}


@pytest.mark.parametrize(
    ("assignment", "stale"),
    [
        ("sample_fps=8", {"latents"}),
        ("num_frames=17", {"latents"}),
        ("dtype=float32", {"latents", "t5_tokens", "llm_tokens"}),
        ("answers=3", {"llm_tokens"}),
        ("seed=1", {"llm_tokens"}),
        ("latents.batch=7", set()),
    ],
)
def test_what_decides_a_table_is_in_its_key(assignment: str, stale: set[str], model: ModelConfig) -> None:
    keys, other = table_keys(model, CONFIG), table_keys(model, override(CONFIG, [assignment]))
    assert {name for name in keys if other[name] != keys[name]} == stale


def test_another_revision_on_the_hub_makes_its_own_tables_stale() -> None:
    at = ModelConfig(base="some/base", llm="some/llm", fuser=FuserConfig(text_length=24))
    keys = table_keys(at, CONFIG)
    for field, stale in (("revision", {"latents", "t5_tokens"}), ("llm_revision", {"llm_tokens"})):
        other = table_keys(at.model_copy(update={field: "v2"}), CONFIG)
        assert {name for name in keys if other[name] != keys[name]} == stale
