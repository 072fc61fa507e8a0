"""What a configuration refuses, and the learning rate that it makes."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from mimir_ray.config import UserError, fingerprint, from_yaml, override, to_yaml
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.engine import learning_rate_at


def config(**fields: Any) -> TrainingConfig:
    return TrainingConfig(**{"steps": 100, "batch_size": 16, "learning_rate": 6e-4} | fields)


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_do() -> None:
    with pytest.raises(UserError, match=r"batch_size=16 does not divide by workers=3 .* set batch_size to 15 or 18"):
        override(config(), ["workers=3"])
    with pytest.raises(ValidationError, match="set batch_size to 32"):
        config(workers=4, accumulate=8)


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"warmup_steps=100 leaves nothing of steps=100; .* add --set training.warmup_steps=5$"
    ):
        override(config(), ["warmup_steps=100"])


def test_captions_without_any_weight_are_refused() -> None:
    zeros = [f"caption_weights.{kind}=0" for kind in ("long", "short", "user", "filename")]
    with pytest.raises(UserError, match="no caption could be drawn"):
        override(config(), zeros)


def test_it_survives_yaml() -> None:
    made = config(betas=(0.9, 0.99), fuser_learning_rate=1e-3)
    assert fingerprint(from_yaml(TrainingConfig, to_yaml(made))) == fingerprint(made)


def test_importing_the_room_brings_no_heavy_library() -> None:
    code = "import sys, mimir_ray.training; print({'torch', 'ray', 'deepspeed', 'diffusers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"


def test_the_learning_rate_warms_up_and_follows_half_a_cosine() -> None:
    made = config(warmup_steps=10, final_learning_rate=0.1)
    rates = [learning_rate_at(step, made) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate_at(100, made) == pytest.approx(0.1)
    assert learning_rate_at(99, config(schedule="constant")) == 1.0
