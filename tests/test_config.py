"""Strict configuration: what is accepted, what is refused, and what the refusal says."""

import pickle
import subprocess
import sys
from typing import Literal

import pydantic
import pytest
from pydantic import Field, model_validator

from mimir_ray.config import Config, UserError, differences, fingerprint, from_dict, from_yaml, override, to_yaml


class Optimizer(Config):
    learning_rate: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)


class Training(Config):
    optimizer: Optimizer = Optimizer()
    max_steps: int = Field(100, ge=1)
    warmup_steps: int = 10
    precision: Literal["fp32", "bf16"] = "fp32"
    resume: bool = True
    weights: dict[str, float] = {}

    @model_validator(mode="after")
    def _warmup_fits(self) -> "Training":
        if self.warmup_steps > self.max_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}, more than max_steps {self.max_steps}; set warmup_steps lower"
            )
        return self


class Run(Config):
    name: str
    training: Training = Training()
    llm: str | None = None
    extra: Optimizer | None = None
    stages: tuple[str, ...] = ("train",)


RUN = Run(name="first")


def refusal(*assignments: str) -> str:
    with pytest.raises(UserError) as caught:
        override(RUN, assignments)
    return str(caught.value)


def test_a_config_is_frozen_strict_and_keyword_only() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        RUN.name = "second"  # type: ignore[misc]
    with pytest.raises(pydantic.ValidationError, match="valid string"):
        Run(name=3)  # type: ignore[arg-type]
    with pytest.raises(pydantic.ValidationError, match="valid integer"):
        Training(max_steps=True)
    with pytest.raises(pydantic.ValidationError, match="Extra inputs"):
        Run(name="x", nmae="y")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Run("x")  # type: ignore[misc]
    with pytest.raises(pydantic.ValidationError, match="finite"):
        Optimizer(learning_rate=float("inf"))


def test_defaults_are_validated_too() -> None:
    class Wrong(Config):
        rate: float = Field(0.0, gt=0)

    with pytest.raises(pydantic.ValidationError, match="greater than 0"):
        Wrong()


def test_an_int_is_a_float_and_nothing_else_is_converted() -> None:
    assert Optimizer(learning_rate=1) == Optimizer(learning_rate=1.0)
    assert fingerprint(Optimizer(learning_rate=1)) == fingerprint(override(Optimizer(), ["learning_rate=1"]))
    assert "it must be a valid integer" in refusal("training.max_steps=ten")
    assert "training.max_steps is 10.5" in refusal("training.max_steps=10.5")
    assert "it must be a valid boolean" in refusal("training.resume=1")


@pytest.mark.parametrize(
    ("assignment", "read"),
    [
        ("training.optimizer.learning_rate=1e-4", lambda run: run.training.optimizer.learning_rate == 1e-4),
        ("training.optimizer.learning_rate=1.E+2", lambda run: run.training.optimizer.learning_rate == 100.0),
        ("training.optimizer.betas=[0.5, .9]", lambda run: run.training.optimizer.betas == (0.5, 0.9)),
        ("training.optimizer={learning_rate: 2}", lambda run: run.training.optimizer == Optimizer(learning_rate=2)),
        ("training.resume=false", lambda run: run.training.resume is False),
        ("training.precision=bf16", lambda run: run.training.precision == "bf16"),
        ("training.weights.long=0.5", lambda run: run.training.weights == {"long": 0.5}),
        ("llm=microsoft/Phi-3.5-mini-instruct", lambda run: run.llm == "microsoft/Phi-3.5-mini-instruct"),
        ("llm=", lambda run: run.llm is None),
        ("llm=null", lambda run: run.llm is None),
        ('llm=""', lambda run: run.llm == ""),
        ("name=no", lambda run: run.name == "no"),
        ("name=1:30", lambda run: run.name == "1:30"),
        ("name=2024-01-01", lambda run: run.name == "2024-01-01"),
        ("name='1e5'", lambda run: run.name == "1e5"),
        ("name=a=b", lambda run: run.name == "a=b"),
        ("name=zwölf 雪", lambda run: run.name == "zwölf 雪"),
        ("extra={betas: [0.1, 0.2]}", lambda run: run.extra == Optimizer(betas=(0.1, 0.2))),
        ("stages=[]", lambda run: run.stages == ()),
    ],
)
def test_override_reads_yaml_of_the_core_schema(assignment, read) -> None:  # type: ignore[no-untyped-def]
    assert read(override(RUN, [assignment]))
    assert override(RUN, []) == RUN
    assert RUN.training.optimizer.learning_rate == 1e-4, "the original is untouched"


def test_assignments_are_validated_together() -> None:
    assert "warmup_steps is 200, more than max_steps 100" in refusal("training.warmup_steps=200")
    run = override(RUN, ["training.warmup_steps=200", "training.max_steps=500", "training.max_steps=400"])
    assert (run.training.warmup_steps, run.training.max_steps) == (200, 400)


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("training.optimiser.learning_rate=1", "no field training.optimiser; did you mean optimizer?"),
        ("training.optimizer.lr=1", "no field training.optimizer.lr; did you mean learning_rate?"),
        ("max_steps=20", "no field max_steps here; did you mean training.max_steps?"),
        ("optimizer.betas=[0, 1]", "no field optimizer.betas here; did you mean training.optimizer.betas?"),
        ("training.optimizer.x9=1", "the fields are learning_rate, betas"),
        ("training.optimizer={x9: 1}", "no field training.optimizer.x9; the fields are learning_rate, betas"),
        ("extra={learning_rat: 1}", "did you mean learning_rate?"),
        ("training.precision=fp16", "training.precision is \"fp16\"; it must be 'fp32' or 'bf16'"),
        ("training.optimizer.learning_rate=0", "it must be greater than 0"),
        ("training.optimizer.learning_rate=.nan", "it must be a finite number"),
        ("training.optimizer.betas=[1]", "training.optimizer.betas.1 is required"),
        ("training.optimizer.betas=[1, 2, 3]", "training.optimizer.betas"),
        ("training=5", "training is 5"),
        ("name=5", "quote it to make it text"),
        ("name=null", "name is null; it must be a valid string"),
        ("llm.revision=main", "llm is null and has no fields; set llm as a whole"),
        ("name.first=x", 'name is "first" and has no fields'),
        ("training.weights.a.b=1", "has no fields"),
        ("training.max_steps", "write field=value"),
        ("=3", "write field=value"),
        ("training..max_steps=3", "no field training."),
        (".name=x", "no field "),
        ("name=[", "not valid YAML"),
        ("name={a: 1, a: 2}", "a is given twice"),
        ("training.weights={1: 2}", "the key 1 is not text"),
        ("name=!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("name=\x00", "not valid YAML"),
    ],
)
def test_a_refusal_names_the_field_and_the_remedy(assignment: str, told: str) -> None:
    assert told in refusal(assignment)


def test_every_mistake_is_named_at_once() -> None:
    message = refusal("training.max_steps=0", "training.precision=fp8")
    assert "training.max_steps is 0; it must be greater than or equal to 1" in message
    assert "training.precision" in message


def test_a_later_assignment_may_go_into_what_an_earlier_one_broke() -> None:
    assert "training" in refusal("training=5", "training.max_steps=7", "training=6")


HOSTILE = (
    *("1e5", "+1", "1.", ".inf", "0x1F", "1_000", "12:30:45", "no", "true", "True", "null", "~", ""),
    *("a: b", "- x", "#", "'", '"', "=", "<<", "%", " padded ", "two\nlines", "\u2028", "é"),
)


@pytest.mark.parametrize("text", HOSTILE)
def test_yaml_round_trip_of_hostile_text(text: str) -> None:
    run = Run(name=text, llm=text, stages=(text, text))
    assert from_yaml(Run, to_yaml(run)) == run


def test_yaml_floats_survive_exactly() -> None:
    for value in (1e-4, 1e22, 5e-324, 0.1 + 0.2, 3.0, 123456789.123456789):
        optimizer = Optimizer(learning_rate=value)
        assert from_yaml(Optimizer, to_yaml(optimizer)).learning_rate == value


def test_from_yaml_names_the_file_and_the_mistake() -> None:
    with pytest.raises(UserError, match=r"run\.yaml: name is required and was not given"):
        from_yaml(Run, "", "run.yaml")
    with pytest.raises(UserError, match=r"run\.yaml holds a list; it must be a mapping"):
        from_yaml(Run, "- a", "run.yaml")
    with pytest.raises(UserError, match=r"run\.yaml is not valid YAML \(line 2, column 1\)"):
        from_yaml(Run, "name: x\n\tq", "run.yaml")


def test_from_dict_refuses_what_yaml_could_not_hold() -> None:
    with pytest.raises(UserError, match="only numbers, text, lists and mappings"):
        from_dict(Run, {"name": object()})
    assert from_dict(Run, {"name": "x", "stages": ["a"]}).stages == ("a",)


def test_fingerprint_is_of_the_values_alone() -> None:
    assert fingerprint(RUN) == "7a008262ee3eb6e5"
    assert fingerprint(override(RUN, ["training.max_steps=100"])) == fingerprint(RUN)
    assert fingerprint(override(RUN, ["training.max_steps=101"])) != fingerprint(RUN)
    assert fingerprint(from_yaml(Run, to_yaml(RUN))) == fingerprint(RUN)
    assert pickle.loads(pickle.dumps(RUN)) == RUN


def test_differences_name_old_and_new() -> None:
    old = RUN.model_dump(mode="json")
    new = override(RUN, ["training.optimizer.betas=[0.1,0.2]", "llm=x"]).model_dump(mode="json")
    assert differences(old, new) == [
        "training.optimizer.betas was [0.9, 0.95] and is now [0.1, 0.2]",
        'llm was null and is now "x"',
    ]
    assert differences({"a": 1}, {"b": {"c": 2}}) == ["a is gone (was 1)", 'b is new ({"c": 2})']
    assert differences(old, old) == []


def test_importing_the_leaves_is_light() -> None:
    heavy = "ray torch deepspeed transformers diffusers cv2 av"
    program = (
        "import sys, mimir_ray.config, mimir_ray.records, mimir_ray.storage;"
        f"found = set(sys.modules) & set('{heavy}'.split()); sys.exit(', '.join(found) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
