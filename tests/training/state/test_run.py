"""What makes two runs the same one."""

import json
from pathlib import Path

import pytest

from mimir_ray.config import UserError
from mimir_ray.model.config import FuserConfig, ModelConfig
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.state.run import Run, begin, finish, finished, read_run


def run(**fields: object) -> Run:
    training = TrainingConfig(**({"steps": 10, "batch_size": 8, "learning_rate": 0.1} | fields))  # type: ignore[arg-type]
    return Run(model=ModelConfig(base="base"), training=training, tables={"latents": "1"}, samples="2")


@pytest.fixture
def out(tmp_path: Path) -> str:
    begin(str(tmp_path), run(workers=2, zero_stage=2))
    (tmp_path / "metrics.jsonl").write_text("")
    return str(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"workers": 1},
        {"workers": 4, "min_workers": 1, "accumulate": 2},
        {"zero_stage": 3, "offload": "all"},
        {"gradient_checkpointing": True, "compile": True},
        {"log_every": 1, "checkpoint_every": 3, "keep_checkpoints": 9, "keep_by": "loss", "max_failures": 0},
        {"read_ahead": 1, "cache_mib": 1, "device": "cpu", "max_skipped_steps": 1},
    ],
)
def test_a_run_goes_on_elsewhere_and_at_another_pace(out: str, fields: dict[str, object]) -> None:
    begin(out, run(**fields))
    finish(out, run(), 1.0)
    (Path(out) / "export").mkdir()
    (Path(out) / "export" / "model_index.json").write_text("{}")
    assert finished(out, run(**fields))


@pytest.mark.parametrize("fields", [{"learning_rate": 0.2}, {"batch_size": 16}, {"train": "fuser"}, {"seed": 1}])
def test_what_changes_the_weights_is_another_run(out: str, fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"holds another run: .* Choose another --out"):
        begin(out, run(**fields))
    assert read_run(out).training.learning_rate == 0.1


def test_a_run_of_before_a_field_existed_has_its_default(out: str) -> None:
    finish(out, run(), 1.0)
    (Path(out) / "export").mkdir()
    (Path(out) / "export" / "model_index.json").write_text("{}")
    for name in ("_run.json", "_manifest.json"):
        written = json.loads((Path(out) / name).read_text())
        assert written["model"]["fuser"].pop("null_condition") == "zeros"
        (Path(out) / name).write_text(json.dumps(written))
    begin(out, run())
    assert finished(out, run())
    fuser = FuserConfig(null_condition="empty_prompt")
    other = run().model_copy(update={"model": ModelConfig(base="base", fuser=fuser)})
    assert not finished(out, other)
    with pytest.raises(UserError, match='null_condition was "zeros" and is now "empty_prompt"'):
        begin(out, other)


def test_a_run_of_another_version_is_another_run(out: str) -> None:
    path = Path(out) / "_run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 1, "cut": "long ago"}))
    with pytest.raises(UserError, match=r"schema_version was 1 and is now 2.* Choose another --out"):
        begin(out, run())


def test_other_clips_are_another_run_and_said_in_words(out: str) -> None:
    with pytest.raises(UserError, match=r"holds another run: the clips, their captions or the shards .* have changed"):
        begin(out, run().model_copy(update={"samples": "3"}))
