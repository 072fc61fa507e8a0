"""What makes two runs the same one."""

import json
from pathlib import Path

import pytest

from mimir_ray.config import UserError
from mimir_ray.model.config import FuserConfig, ModelConfig
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.state.run import Run, begin, check_out, finish, finished, read_run


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


def test_of_every_field_it_is_known_whether_it_decides_the_weights() -> None:
    decides = {
        *("steps", "batch_size", "train", "lora", "precision", "text_dropout", "caption_weights", "seed"),
        *("learning_rate", "fuser_learning_rate", "warmup_steps", "schedule", "final_learning_rate"),
        *("betas", "weight_decay", "max_grad_norm", "ema_decay", "shuffle_shards"),
    }
    may_change = {
        *("workers", "min_workers", "resize_check_s", "accumulate", "device", "zero_stage", "offload"),
        *("gradient_checkpointing", "compile", "read_ahead", "cache_mib", "log_every", "max_skipped_steps"),
        *("checkpoint_every", "keep_checkpoints", "keep_by", "max_failures", "validation", "logging"),
    }
    assert decides | may_change == set(TrainingConfig.model_fields), "say of a new field which of the two it is"
    assert set(run().model_dump(mode="json")["training"]) == decides


def test_a_run_may_get_more_steps_and_never_fewer(out: str) -> None:
    finish(out, run(), 1.0)
    (Path(out) / "export").mkdir()
    (Path(out) / "export" / "model_index.json").write_text("{}")
    assert begin(out, run()) is None
    assert begin(out, run(steps=30)) == 10
    assert not finished(out, run(steps=30))
    assert begin(out, run(steps=30)) is None, "said once"
    assert read_run(out).training.steps == 30
    check_out(out, run().model, run(steps=40).training)
    for other in (run(steps=20), run(steps=40, learning_rate=0.2)):
        with pytest.raises(UserError, match="holds another run"):
            begin(out, other)


def test_other_clips_are_another_run_and_said_in_words(out: str) -> None:
    with pytest.raises(UserError, match=r"holds another run: the clips, their captions or the shards .* have changed"):
        begin(out, run().model_copy(update={"samples": "3"}))
