"""Tables that another model, format or question made are not trained on."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from mimir_ray.cli.preflight import check_tables
from mimir_ray.config import Config, UserError, fingerprint, override
from mimir_ray.model.config import LanguageConfig, ModelConfig
from mimir_ray.model.pipeline import MimirPipeline
from mimir_ray.precompute.config import PrecomputeConfig
from mimir_ray.precompute.keys import table_keys
from mimir_ray.storage import Table
from tests.cli.command import mimir
from tests.tiny import tiny_base, tiny_llm

CONFIG = PrecomputeConfig(num_frames=9, height=64, width=64, answers=2)


@pytest.fixture(autouse=True)
def told() -> None:
    """Verbs that ran in this process before may have quietened the log."""
    logging.getLogger("mimir_ray").setLevel(logging.INFO)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    root = tmp_path_factory.mktemp("models")
    return ModelConfig(base=str(tiny_base(root / "base")), llm=str(tiny_llm(root / "llm")))


def finished(root: Path, keys: dict[str, Config]) -> str:
    """Empty tables with these keys, as precompute finishes them."""
    for name, key in keys.items():
        table = Table(str(root / name))
        table.begin(key)
        table.finish(0)
    return str(root)


def changed(model: ModelConfig, **fields: object) -> ModelConfig:
    return model.model_copy(update=fields)


def test_tables_of_the_recipe_pass(tmp_path: Path, model: ModelConfig, caplog: pytest.LogCaptureFixture) -> None:
    check_tables(finished(tmp_path, table_keys(model, CONFIG)), model, CONFIG)
    assert not caplog.records


def test_tables_that_are_not_there_are_left_to_training_to_report(tmp_path: Path, model: ModelConfig) -> None:
    check_tables(str(tmp_path), model, CONFIG)


def test_what_differs_is_named_with_both_remedies(tmp_path: Path, model: ModelConfig) -> None:
    data = finished(tmp_path, table_keys(model, CONFIG))
    for other, table, difference in (
        (changed(model, dtype="bfloat16"), "latents", 'compute_dtype was "float32" and is now "bfloat16"'),
        (changed(model, language=LanguageConfig(temperature=0.5)), "llm_tokens", "language.temperature was 1.0 and is"),
        (changed(model, language=LanguageConfig(question="Explain {prompt}")), "llm_tokens", "language.question was"),
    ):
        with pytest.raises(
            UserError, match=rf"{table} of .* something else than the recipe says: {difference}"
        ) as told:
            check_tables(data, other, CONFIG)
        assert f"mimir precompute --data {data} --overwrite" in str(told.value)
        assert "--set that the table was made with" in str(told.value)
    with pytest.raises(UserError, match=r"latents .* 17"):
        check_tables(data, model, CONFIG.model_copy(update={"num_frames": 17}))
    with pytest.raises(UserError, match="dtype"):
        check_tables(data, model, CONFIG.model_copy(update={"dtype": "bfloat16"}))


def test_another_encoder_is_refused(tmp_path: Path, model: ModelConfig) -> None:
    data = finished(tmp_path / "data", table_keys(model, CONFIG))
    other = shutil.copytree(model.base, tmp_path / "other")
    weights = other / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=r"t5_tokens .* text_encoder was"):
        check_tables(data, changed(model, base=str(other)), CONFIG)


def test_the_same_files_elsewhere_pass(tmp_path: Path, model: ModelConfig) -> None:
    data = finished(tmp_path / "data", table_keys(model, CONFIG))
    moved = shutil.copytree(model.base, tmp_path / "moved")
    check_tables(data, changed(model, base=str(moved)), CONFIG)


def test_training_goes_on_from_a_finished_model_on_the_same_tables(
    tmp_path: Path, model: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Its encoders are written anew, so their files differ; what it was trained on says that they are the same."""
    keys = table_keys(model, CONFIG)
    data, export = finished(tmp_path / "data", keys), tmp_path / "export"
    MimirPipeline.from_model_config(changed(model, dtype="bfloat16")).save_pretrained(export)
    onward = changed(model, base=str(export))
    assert table_keys(onward, CONFIG)["latents"] != keys["latents"]
    with pytest.raises(UserError, match="vae was"):
        check_tables(data, onward, CONFIG)
    account = {"tables": {name: fingerprint(key) for name, key in keys.items()}}
    (export / "training.json").write_text(json.dumps(account))
    check_tables(data, onward, CONFIG)
    assert not caplog.records
    with pytest.raises(UserError, match="sample_fps"):
        check_tables(data, onward, CONFIG.model_copy(update={"sample_fps": 8.0}))


def test_answers_by_an_engine_are_judged_by_the_states_made_of_them(tmp_path: Path, model: ModelConfig) -> None:
    config = override(CONFIG, ["engine=vllm"])
    keys = table_keys(model, config)
    data, base = finished(tmp_path / "data", keys), shutil.copytree(model.base, tmp_path / "base")
    llm = shutil.copytree(str(model.llm), tmp_path / "llm")
    (llm / "model.safetensors").write_bytes((llm / "model.safetensors").read_bytes()[:-1] + b"!")
    onward = changed(model, base=str(base), llm=str(llm))
    with pytest.raises(UserError, match=r"llm_tokens .* llm was"):
        check_tables(data, onward, config)
    account = {"tables": {name: fingerprint(keys[name]) for name in ("latents", "t5_tokens", "llm_tokens")}}
    (base / "training.json").write_text(json.dumps(account))
    check_tables(data, onward, config)
    with pytest.raises(UserError, match=r"llm_tokens .* engine is gone"):
        check_tables(data, onward, CONFIG)


def test_a_hub_id_against_a_directory_is_a_warning(
    tmp_path: Path, model: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    keys = table_keys(model, CONFIG)
    from_hub = {
        "latents": keys["latents"].model_copy(update={"vae": "zai-org/CogVideoX-5b@main"}),
        "t5_tokens": keys["t5_tokens"].model_copy(update={"text_encoder": "zai-org/CogVideoX-5b@main"}),
    }
    check_tables(finished(tmp_path, from_hub), model, CONFIG)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "was made by zai-org/CogVideoX-5b@main" in caplog.text


def test_train_refuses_before_it_starts_ray(tmp_path: Path, model: ModelConfig) -> None:
    data = finished(tmp_path, table_keys(model, CONFIG))
    sizes = [f"--set=precompute.{name}={value}" for name, value in (("num_frames", 9), ("height", 64), ("width", 96))]
    sizes.append("--set=generation.width=96")  # a recipe makes what it trains on
    models = [f"--set=model.base={model.base}", f"--set=model.llm={model.llm}"]
    result = mimir("train", "--data", data, "--out", str(tmp_path / "out"), *sizes, *models)
    assert result.exit_code == 2
    assert "was made by something else than the recipe says" in result.stderr
