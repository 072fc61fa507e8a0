"""Checkpoints of runs become models; the runs are those of two workers without Ray."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mimir_ray.config import UserError
from mimir_ray.model.config import ModelConfig
from mimir_ray.model.pipeline import MimirPipeline
from mimir_ray.storage import file_id, read_json, write_json
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.export import export_run
from mimir_ray.training.module import load_start
from mimir_ray.training.state.pieces import read_weights
from mimir_ray.training.state.run import CHECKPOINTS, Run, checkpoint_name
from tests.cli.command import mimir
from tests.tiny import frames_of
from tests.training.runs import PARTS, SHORT, STEPS, World, config


def run_of(world: World, folder: Path, made: TrainingConfig, states: dict[int, str]) -> str:
    """A run's directory as Ray Train leaves it, with these states as its checkpoints."""
    run = Run(model=world.model, training=made, tables={"latents": "1"}, samples="2")
    write_json(str(folder / "_run.json"), run.model_dump(mode="json"))
    for step, name in states.items():
        shutil.copytree(world.root / "states" / name, folder / CHECKPOINTS / checkpoint_name(step))
    return str(folder)


@pytest.fixture
def whole(world: World, runs: list[dict[str, Any]], tmp_path: Path) -> str:
    return run_of(world, tmp_path / "run", config(), {SHORT: "stage2 fp32", STEPS: "whole"})


@pytest.fixture
def adapted(world: World, runs: list[dict[str, Any]], tmp_path: Path) -> str:
    return run_of(world, tmp_path / "run", config(**PARTS["lora"]), {SHORT: "lora"})


def in_engine(world: World, made: TrainingConfig, state: str) -> Any:
    """The base with the weights that the engine had, adapters included."""
    module = load_start(world.model, made).module
    parameters = dict(module.named_parameters())
    for name, value in read_weights(world.root / "states" / state, "weight").items():
        parameters[name].data.copy_(value.view_as(parameters[name]))
    pipeline = MimirPipeline.from_base(world.model.base, world.model.llm)
    pipeline.register_modules(transformer=module.transformer, token_fuser=module.token_fuser)
    return pipeline


def frames(pipeline: Any) -> np.ndarray:
    return frames_of(pipeline, "a red circle", num_inference_steps=3, guidance_scale=3.0, seed=4)


def test_the_weights_of_a_checkpoint_make_the_videos_that_the_engine_would(
    world: World, whole: str, runs: list[dict[str, Any]]
) -> None:
    target = export_run(whole, average=False)
    assert target == f"{whole}/export"
    loaded = MimirPipeline.from_pretrained(target)
    for name, value in runs[0]["whole"].computed.items():
        component, _, weight = name.partition(".")
        assert torch.equal(getattr(loaded, component).state_dict()[weight], value), name
    assert np.array_equal(frames(loaded), frames(in_engine(world, config(), "whole")))


def test_the_average_is_exported_unless_the_weights_are_asked_for(whole: str, runs: list[dict[str, Any]]) -> None:
    target = export_run(whole)
    exported = MimirPipeline.from_pretrained(target).transformer.proj_out.weight.flatten()
    assert torch.equal(exported, runs[0]["whole"].average["transformer.proj_out.weight"])
    assert not torch.equal(exported, runs[0]["whole"].weights["transformer.proj_out.weight"])
    assert read_json(f"{target}/training.json")["weights"] == "average"


def test_an_export_says_what_it_is_made_of(world: World, whole: str, tmp_path: Path) -> None:
    result = mimir("export", whole, "--raw", "--step", str(SHORT), "--out", str(tmp_path / "early"))
    assert result.exit_code == 0, result.output
    account = read_json(f"{tmp_path}/early/training.json")
    assert (account["step"], account["skipped_steps"], account["weights"]) == (SHORT, 0, "weight")
    assert account["started_from"]["model_index.json"] == file_id(f"{world.model.base}/model_index.json")
    assert any(name.startswith("transformer/") for name in account["started_from"])
    assert account["training"]["learning_rate"] == config().learning_rate
    page = Path(tmp_path, "early", "README.md").read_text()
    assert f"{SHORT} of {config().steps} steps" in page
    assert "here are the weights themselves" in page


def test_adapters_that_are_kept_apart_make_the_videos_that_the_engine_would(world: World, adapted: str) -> None:
    expected = frames(in_engine(world, config(**PARTS["lora"]), "lora"))
    target = export_run(adapted, average=False, form="unmerged")
    pipeline = MimirPipeline.from_pretrained(target)
    assert np.array_equal(frames(pipeline), expected)
    pipeline.unload_lora_weights()
    assert not np.array_equal(frames(pipeline), expected)
    pipeline.load_lora_weights(target)
    assert np.array_equal(frames(pipeline), expected)


def test_merged_adapters_make_nearly_the_same_videos_without_them(world: World, adapted: str) -> None:
    expected = frames(in_engine(world, config(**PARTS["lora"]), "lora"))
    pipeline = MimirPipeline.from_pretrained(export_run(adapted, average=False))
    assert not any("lora" in name for name, _ in pipeline.transformer.named_parameters())
    assert np.abs(frames(pipeline).astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("learnt", ["lora", "fuser"])
def test_what_was_learnt_alone_is_put_on_the_start_by_anyone(
    world: World, learnt: str, runs: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Adapters and token fuser, or the fuser alone; the page says how, and does what it says."""
    run = run_of(world, tmp_path / "run", config(**PARTS[learnt]), {SHORT: learnt})
    result = mimir("export", run, "--adapter", "--raw")
    assert result.exit_code == 0, result.output
    target = Path(run, "adapter")
    assert result.stdout.strip() == str(target)
    names = {file.relative_to(target).as_posix() for file in target.rglob("*") if file.is_file()}
    adapters = {"pytorch_lora_weights.safetensors"} if learnt == "lora" else set()
    fuser = {"token_fuser/config.json", "token_fuser/diffusion_pytorch_model.safetensors"}
    assert names == adapters | fuser | {"language.json", "training.json", "README.md"}
    page = (target / "README.md").read_text()
    assert "base_model_relation: adapter" in page
    code = page.partition("```python")[2].partition("```")[0].replace('"PATH"', repr(str(target)))
    lines = [line for line in code.splitlines() if "export_to_video" not in line and "video =" not in line]
    base = world.model.base
    code = "\n".join(lines).replace(f'"{Path(base).name}"', repr(base))
    code = code.replace(f'"{Path(world.model.llm or "").name}"', repr(world.model.llm))
    said: dict[str, Any] = {}
    exec(code, said)
    expected = frames(in_engine(world, config(**PARTS[learnt]), learnt))
    assert np.array_equal(frames(said["pipeline"]), expected)
    assert not np.array_equal(frames(MimirPipeline.from_model_config(world.model)), expected)


def test_training_starts_from_an_export(world: World, adapted: str, runs: list[dict[str, Any]]) -> None:
    model = ModelConfig(base=export_run(adapted, average=False))
    started = load_start(model, config()).module
    assert all(parameter.requires_grad for parameter in started.parameters())
    learnt = runs[0]["lora"].weights["token_fuser.z_beta.weight"]
    assert torch.equal(started.token_fuser.z_beta.weight.flatten(), learnt)


def test_a_checkpoint_that_a_kill_cut_short_is_passed_over(whole: str) -> None:
    file = next(Path(whole, CHECKPOINTS, checkpoint_name(STEPS)).glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:1000])
    assert read_json(f"{export_run(whole)}/training.json")["step"] == SHORT
    with pytest.raises(UserError, match=rf"the checkpoint of step {STEPS} of .* lacks __"):
        export_run(whole, step=STEPS)


def test_nothing_but_an_export_is_replaced(whole: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    (precious / "data").mkdir(parents=True)
    (precious / "data" / "a.txt").write_text("here")
    for out in (precious, precious / "data" / "a.txt", whole):
        with pytest.raises(UserError, match=r"holds something else than an export, which would be lost"):
            export_run(whole, str(out))
    assert (precious / "data" / "a.txt").read_text() == "here"
    assert Path(whole, "_run.json").exists()
    target = export_run(whole, step=SHORT)
    assert export_run(whole) == target
    assert read_json(f"{target}/training.json")["step"] == STEPS
    assert not list(Path(whole).glob(".*.tmp"))


def test_mistakes_are_said(whole: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"no checkpoint of step 5; choose one of {SHORT}, {STEPS}"):
        export_run(whole, step=5)
    with pytest.raises(UserError, match=r"without adapters; only those of lora can be kept apart"):
        export_run(whole, form="unmerged")
    with pytest.raises(UserError, match=r"training.train=full, which changed every weight"):
        export_run(whole, form="adapter")
    result = mimir("export", whole, "--adapter", "--unmerged")
    assert "give one of them" in result.output
    for push, told in (("me", "no repository"), ("me/mimir", "me/mimir")):
        result = mimir("export", whole, "--push", push, "--out", str(tmp_path / "never"))
        assert (result.exit_code, (tmp_path / "never").exists()) == (2, False)
        assert told in result.output
    (tmp_path / "nothing").mkdir()
    result = mimir("export", str(tmp_path / "nothing"))
    assert result.exit_code == 2
    assert "is no training run" in result.output
    shutil.rmtree(Path(whole, CHECKPOINTS))
    with pytest.raises(UserError, match=r"has no checkpoint yet"):
        export_run(whole)
