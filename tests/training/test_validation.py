"""Validation on real Ray with tiny models: what a training hands over becomes videos, scores and rows."""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from pydantic import ValidationError

from mimir_ray.config import UserError
from mimir_ray.generation.checkpoint import load_pipeline
from mimir_ray.generation.config import GenerationConfig, RuntimeConfig
from mimir_ray.model.pipeline import MimirPipeline
from mimir_ray.training.config import LoraConfig, ValidationConfig
from mimir_ray.training.export import export, trained_pipeline
from mimir_ray.training.mailbox import Inbox, Mailbox
from mimir_ray.training.module import select_trained
from mimir_ray.training.validation import Result, Validation, read_validations, require_room
from mimir_ray.training.validator import Score, Validator, pack, unpack
from mimir_ray.video import encode_mp4
from tests.training.runs import World
from tests.training.runs import config as training_config

PROMPTS = ("a red circle", "a blue square moves left")
RUNTIME = RuntimeConfig(cpu_threads=1)
GENERATION = GenerationConfig(
    num_frames=9, height=64, width=64, fps=8.0, num_inference_steps=2, guidance_scale=2.0, runtime=RUNTIME
)
TRAINING = training_config()
CONFIG = ValidationConfig(every=2, prompts=PROMPTS, seed=3, num_cpus=0.5, wait_s=120)

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Judge:
    """Scores brightness. Waits while there is a file `hold`, dies where there is one called `die`."""

    folder: Path

    def __call__(self, prompt: str, frames: np.ndarray) -> Score | None:
        (self.folder / "began").touch()
        while (self.folder / "hold").exists():
            time.sleep(0.05)
        if (self.folder / "die").exists():
            (self.folder / "die").unlink()
            os._exit(1)
        if "blue" in prompt:
            raise ArithmeticError("blue cannot be judged")
        return Score(float(frames.mean()) / 255, {"frames": len(frames)})


@ray.remote(num_cpus=0)
class Worker:
    """Hands weights over as a training worker does, and is gone soon after."""

    def submit(self, inbox: Inbox, step: int, weights: dict[str, torch.Tensor]) -> None:
        inbox.submit(step, weights)
        for tensor in weights.values():
            tensor.zero_()  # training goes on
        inbox.settle()


@dataclass
class Story:
    """What happened in one run of `Validation`."""

    out: Path
    weights: dict[int, dict[str, torch.Tensor]]
    results: list[Result] = field(default_factory=list)

    def wait_for(self, step: int) -> Result:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if found := [result for result in self.results if result.row["step"] == step]:
                return found[0]
            time.sleep(0.1)
        raise AssertionError(f"nothing came of step {step}: {self.results}")

    def index(self, step: int) -> list[dict[str, Any]]:
        lines = (self.out / "validation" / f"step-{step:08d}" / "index.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def some_weights(world: World, seed: int) -> dict[str, torch.Tensor]:
    """Those of a fresh Mimir, moved a little."""
    pipeline = MimirPipeline.from_model_config(world.model)
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{part}.{name}": value.detach() + 0.1 * torch.randn(value.shape, generator=generator)
        for part in ("transformer", "token_fuser")
        for name, value in getattr(pipeline, part).named_parameters()
    }


@pytest.fixture(scope="module")
def story(world: World, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("judge")
    told = Story(tmp_path_factory.mktemp("run"), {step: some_weights(world, step) for step in (2, 6)})
    (folder / "hold").touch()
    judge = Judge(folder)
    with Validation(
        world.model, TRAINING, CONFIG, GENERATION, str(told.out), scorer=judge, on_result=told.results.append
    ) as validation:
        inbox = validation.inbox
        worker = Worker.remote()
        ray.get(worker.submit.remote(inbox, 2, told.weights[2]))
        ray.kill(worker)
        until = time.monotonic() + 120
        while not (folder / "began").exists():
            assert time.monotonic() < until
            time.sleep(0.1)
        inbox.submit(4, told.weights[2])
        inbox.submit(6, told.weights[6])
        inbox.settle()
        (folder / "hold").unlink()
        told.wait_for(6)
        inbox.submit(2, told.weights[6])
        inbox.submit(8, {"transformer.unknown": torch.zeros(1)})
        told.wait_for(8)
        (folder / "die").touch()
        inbox.submit(10, told.weights[6])
        told.wait_for(10)
        inbox.submit(12, told.weights[6])
        inbox.settle()
    return told


def test_the_videos_are_those_of_the_pipeline_with_the_same_weights_and_seed(
    story: Story, world: World, tmp_path: Path
) -> None:
    for step in (2, 6):
        exported = export(trained_pipeline(story.weights[step], world.model, TRAINING), str(tmp_path / str(step)), {})
        pipeline = load_pipeline(exported, RUNTIME)
        for index, row in enumerate(story.index(step)):
            assert (row["prompt"], row["seed"], row["path"]) == (PROMPTS[index], 3 + index, f"{index:02d}.mp4")
            frames = pipeline(
                row["prompt"], num_inference_steps=2, guidance_scale=2.0, seed=row["seed"], num_frames=9
            ).frames[0]
            written = (story.out / "validation" / f"step-{step:08d}" / row["path"]).read_bytes()
            assert written == encode_mp4(frames, GENERATION.fps)
            if index == 0:
                assert row["score"] == pytest.approx(float(frames.mean()) / 255)
                assert row["detail"] == {"frames": 9}
    first, second = ((story.out / "validation" / f"step-{step:08d}" / "00.mp4").read_bytes() for step in (2, 6))
    assert first != second


def test_every_step_that_was_submitted_has_one_row(story: Story) -> None:
    rows = read_validations(str(story.out))
    assert {step: row["status"] for step, row in rows.items()} == {
        2: "ok",
        4: "skipped",
        6: "ok",
        8: "failed",
        10: "failed",
        12: "ok",
    }
    assert sorted(result.row["step"] for result in story.results) == [2, 4, 6, 8, 10, 12], "each was told of once"
    for result in story.results:
        assert rows[result.row["step"]] == result.row


def test_the_newest_takes_the_place_of_what_waits(story: Story) -> None:
    assert "step 6 came before" in read_validations(str(story.out))[4]["reason"]
    assert not (story.out / "validation" / "step-00000004").exists()


def test_a_prompt_that_cannot_be_judged_fails_alone(story: Story) -> None:
    row, samples = story.wait_for(2).row, story.wait_for(2).samples
    assert (row["prompts"], row["failed"], row["reason"]) == (2, 1, "ArithmeticError: blue cannot be judged")
    assert row["score"] == samples[0].score
    assert samples[1].score is None
    assert samples[1].path is not None
    assert Path(samples[1].path).exists()


def test_what_went_wrong_is_told_and_the_next_step_is_validated(story: Story) -> None:
    rows = read_validations(str(story.out))
    assert "1 elements of transformer.unknown, which is no part of" in rows[8]["reason"]
    assert "ActorDiedError" in rows[10]["reason"]
    assert rows[12]["score"] == rows[6]["score"], "the same weights, in a validator that was started again"


def test_a_run_that_goes_on_asks_only_for_what_it_has_not(story: Story, world: World) -> None:
    again = Validation(world.model, TRAINING, CONFIG, GENERATION, str(story.out))
    with again:
        assert [step for step in range(1, 16) if again.inbox.due(step)] == [4, 8, 10, 14]


def test_a_validation_that_is_too_slow_does_not_hold_the_end(world: World, ray_session: None, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    config = CONFIG.model_copy(update={"wait_s": 0.0})
    out = str(tmp_path / "run")
    with Validation(world.model, TRAINING, config, GENERATION, out, scorer=Judge(tmp_path)) as validation:
        validation.inbox.submit(2, some_weights(world, 0))
        validation.inbox.settle()
    row = read_validations(out)[2]
    assert row["status"] == "failed"
    assert "raise training.validation.wait_s (now 0)" in row["reason"]


def test_weights_that_cannot_be_handed_over_are_recorded(world: World, ray_session: None, tmp_path: Path) -> None:
    with Validation(world.model, TRAINING, CONFIG, GENERATION, str(tmp_path)) as validation:
        validation.inbox.submit(2, {"transformer.x": "no tensor"})  # type: ignore[dict-item]
    assert "handing over the weights: AttributeError" in read_validations(str(tmp_path))[2]["reason"]


def test_adapters_are_merged_as_the_export_merges_them(world: World, tmp_path: Path) -> None:
    lora = training_config(train="lora", lora=LoraConfig(rank=2))
    start = MimirPipeline.from_model_config(world.model)
    select_trained(start.transformer, lora)
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"transformer.{name}": torch.randn(value.shape, generator=generator)
        for name, value in start.transformer.named_parameters()
        if value.requires_grad
    }
    validator = Validator(world.model, lora, CONFIG, GENERATION, str(tmp_path), None)
    for step, scale in ((2, 0.5), (4, 1.0)):
        samples = validator.validate(step, pack({name: value * scale for name, value in weights.items()}, "float32"))
    frames = trained_pipeline(weights, world.model, lora)(
        PROMPTS[0], num_inference_steps=2, guidance_scale=2.0, seed=3, num_frames=9
    ).frames[0]
    assert samples[0].path is not None
    assert Path(samples[0].path).read_bytes() == encode_mp4(frames, GENERATION.fps)


def test_packed_weights_keep_their_bits() -> None:
    weights = {
        "w": torch.randn(3, 2),
        "half": torch.randn(4).bfloat16(),
        "scalar": torch.tensor(2.5),
        "n": torch.arange(3),
    }
    back = unpack(pack(weights, "bfloat16"))
    for name, value in weights.items():
        wanted = value.bfloat16() if value.is_floating_point() else value
        assert back[name].dtype == wanted.dtype
        assert torch.equal(back[name], wanted)


def test_a_skipped_step_may_come_again_and_a_taken_one_may_not(ray_session: None) -> None:
    mailbox = Mailbox()
    mailbox.put(2, {})
    mailbox.put(4, {})
    mailbox.put(2, {})
    waiting, notes = mailbox.take()
    assert waiting is not None
    assert waiting[0] == 2
    assert [(step, status) for step, status, _ in notes] == [(2, "skipped"), (4, "skipped")]
    mailbox.put(2, {})
    assert mailbox.take() == (None, [])


def test_more_than_the_cluster_has_is_refused() -> None:
    wanted = ValidationConfig(every=5, prompts=PROMPTS, num_cpus=1, num_gpus=1)
    with pytest.raises(
        UserError, match=r"num_gpus=1 and the training workers leave 0 of this Ray cluster's GPUs; lower"
    ):
        require_room(wanted, GENERATION, cpus=2, gpus=0)
    with pytest.raises(UserError, match=r"num_cpus=1 and the training workers leave 0 of"):
        require_room(wanted, GENERATION, cpus=0, gpus=1)
    require_room(wanted, GENERATION, cpus=1, gpus=1)
    require_room(ValidationConfig(), GENERATION, cpus=0, gpus=0)
    on_gpu = GENERATION.model_copy(update={"runtime": RuntimeConfig(device="cuda")})
    with pytest.raises(UserError, match=r"set training.validation.num_gpus=1"):
        require_room(CONFIG, on_gpu, cpus=1, gpus=1)


def test_a_validation_without_prompts_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"every=5 validates and there are no prompts; set prompts="):
        ValidationConfig(every=5)
    with pytest.raises(ValidationError, match="prompt 2 of 2 is blank"):
        ValidationConfig(prompts=("a", " "))
