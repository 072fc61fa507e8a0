"""Validation beside a training on real Ray with tiny models, through a kill of the videos' process and of a worker."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import ray.train
from pydantic import ValidationError

from mimir_ray.config import UserError
from mimir_ray.generation.checkpoint import load_pipeline
from mimir_ray.generation.config import GenerationConfig, RuntimeConfig
from mimir_ray.training import LoggingConfig, Score, TrainingConfig, ValidationConfig, read_validations, train
from mimir_ray.training.export import export_run
from mimir_ray.training.reporting.validation import (
    Validation,
    ValidationVideo,
    check_validation,
    read_validation,
)
from mimir_ray.training.reporting.validator import Validator
from mimir_ray.training.state.checkpoints import checkpoint_steps
from mimir_ray.video import encode_mp4
from tests.tiny import frames_of
from tests.training.reporting.test_loggers import shown
from tests.training.runs import World, config
from tests.training.test_train import KillOnce

PROMPTS = ("a red circle", "a blue square moves left")
RUNTIME = RuntimeConfig(cpu_threads=1)
GENERATION = GenerationConfig(
    num_frames=9, height=64, width=64, fps=8.0, num_inference_steps=2, guidance_scale=2.0, runtime=RUNTIME
)
STEPS = (4, 8, 12, 14)
"""Of the story's validations: one every four steps, and one at the end."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Judge:
    """Scores brightness, notes what it is asked, and dies where there is a file `die`."""

    folder: Path

    def __call__(self, prompt: str, frames: np.ndarray) -> Score | None:
        if (self.folder / "die").exists():
            (self.folder / "die").unlink()
            os._exit(1)
        with (self.folder / "asked").open("a") as stream:
            stream.write(f"{prompt}\n")
        if "blue" in prompt:
            raise ArithmeticError("blue cannot be judged")
        return Score(float(frames.mean()) / 255, {"frames": len(frames)})


def validated(**fields: object) -> TrainingConfig:
    validation = {"every": 4, "prompts": PROMPTS, "seed": 3} | fields
    return config(steps=14, keep_by="score", max_failures=0, validation=ValidationConfig(**validation))


@dataclass(frozen=True)
class Story:
    """A run whose first validation died, that lost a worker after step 10 and was continued with other loggers."""

    out: str
    judge: Judge
    written_s: float
    """When the index of step 8 was written, before the run was continued."""


def index(out: str, step: int) -> Path:
    return Path(out, "validation", f"step-{step:08d}", "index.jsonl")


@pytest.fixture(scope="module")
def story(world: World, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    judge, out = Judge(folder), str(folder / "run")
    (folder / "die").touch()
    kill = KillOnce(out, at_step=10)
    with pytest.raises(ray.train.TrainingFailedError):
        train(world.data, out, world.model, validated(), generation=GENERATION, scorer=judge, on_metrics=kill)
    assert kill.done
    written_s = index(out, 8).stat().st_mtime
    again = validated(timeout_s=100.0).model_copy(update={"logging": LoggingConfig(name="again")})
    train(world.data, out, world.model, again, generation=GENERATION, scorer=judge)
    return Story(out, judge, written_s)


def test_every_due_checkpoint_is_validated_once(story: Story) -> None:
    found = {validation.step: validation for validation in read_validations(story.out)}
    assert list(found) == list(STEPS)
    assert [found[step].made for step in STEPS] == [0, 2, 2, 2]
    assert (story.judge.folder / "asked").read_text().splitlines() == [*PROMPTS] * 3
    assert index(story.out, 8).stat().st_mtime == story.written_s, "the continued run left it alone"


def test_a_validation_that_dies_is_told_and_the_run_goes_on(story: Story) -> None:
    died = read_validation(story.out, 4)
    assert died is not None
    assert "WorkerCrashedError" in died.reasons[0]
    assert [(video.prompt, video.path) for video in died.videos] == [(prompt, None) for prompt in PROMPTS]
    assert Path(story.out, "export", "model_index.json").exists()


def test_the_videos_are_those_of_the_exported_checkpoint(story: Story, tmp_path: Path) -> None:
    videos = []
    for step in checkpoint_steps(story.out):
        pipeline = load_pipeline(export_run(story.out, str(tmp_path / str(step)), step=step), RUNTIME)
        validation = read_validation(story.out, step)
        assert validation is not None
        for number, video in enumerate(validation.videos):
            assert (video.prompt, video.seed, video.path) == (PROMPTS[number], 3 + number, f"{number:02d}.mp4")
            frames = frames_of(
                pipeline, video.prompt, num_inference_steps=2, guidance_scale=2.0, seed=video.seed, num_frames=9
            )[0]
            videos.append(Path(validation.folder, f"{number:02d}.mp4").read_bytes())
            assert videos[-1] == encode_mp4(frames, GENERATION.fps)
        assert validation.videos[1].reason == "ArithmeticError: blue cannot be judged"
        assert validation.videos[0].detail == {"frames": 9}
        assert validation.score == validation.videos[0].score is not None
    assert len(set(videos)) == len(videos) >= 4


def test_the_best_checkpoints_are_kept_and_the_last(story: Story) -> None:
    scores = {validation.step: validation.score for validation in read_validations(story.out)}
    ranked = sorted((step for step in STEPS if scores[step] is not None), key=lambda step: (scores[step], step))
    assert len({scores[step] for step in ranked}) == 3
    assert checkpoint_steps(story.out) == sorted({*ranked[-2:], STEPS[-1]})


def test_the_loggers_have_rows_and_scores_of_both_attempts(story: Story) -> None:
    found = {validation.step: validation.score for validation in read_validations(story.out)}
    points = shown(f"{story.out}/tensorboard/validation")["score"]
    assert points == [(step, pytest.approx(found[step])) for step in STEPS[1:]]
    assert [step for step, _ in shown(f"{story.out}/tensorboard/train")["loss"]] == list(range(1, 15))


def test_a_finished_run_may_be_watched_otherwise(story: Story, world: World) -> None:
    other = validated(every=8, prompts=("x",)).model_copy(update={"logging": LoggingConfig(to=())})
    assert train(world.data, story.out, world.model, other, generation=GENERATION, scorer=story.judge).already_finished


class Told(list[Validation]):
    """A queue's end."""

    put_nowait = list.append


def test_a_validation_that_takes_too_long_is_given_up(story: Story, world: World, tmp_path: Path) -> None:
    told = Told()
    validator = Validator(world.model, validated(timeout_s=0.01), GENERATION, str(tmp_path), None, told)
    checkpoint = ray.train.Checkpoint(f"{story.out}/checkpoints/step-{STEPS[-1]:08d}")
    assert validator(checkpoint, 14) == {}
    assert "was not done after training.validation.timeout_s=0.01; raise that" in told[0].reasons[0]
    assert read_validation(str(tmp_path), 14) == told[0]


def test_a_checkpoint_that_cannot_be_read_is_told_and_tried_again(story: Story, world: World, tmp_path: Path) -> None:
    told = Told()
    validator = Validator(world.model, validated(), GENERATION, str(tmp_path), None, told)
    assert validator(ray.train.Checkpoint(str(tmp_path)), 14) == {}
    assert "holds no training state" in told[0].reasons[0]
    checkpoint = ray.train.Checkpoint(f"{story.out}/checkpoints/step-{STEPS[-1]:08d}")
    assert validator(checkpoint, 14) == {}, "without a scorer"
    assert [validation.made for validation in told] == [0, 2]
    began = time.monotonic()
    assert validator(checkpoint, 14) == {}
    assert (len(told), time.monotonic() - began < 1) == (2, True), "what has videos is not validated again"


def test_a_mean_is_over_what_has_a_score() -> None:
    videos = (
        ValidationVideo("a", 0, "00.mp4", 0.5),
        ValidationVideo("b", 1, "01.mp4", 1.0),
        ValidationVideo("c", 2, reason="no"),
    )
    assert Validation(1, "", videos).score == 0.75
    assert Validation(1, "", videos[2:]).score is None


def test_more_than_the_cluster_has_is_refused(world: World, tmp_path: Path, ray_session: None) -> None:
    made = validated(num_cpus=3).model_copy(update={"keep_by": "step"})
    with pytest.raises(UserError, match=r"training.validation 3 CPUs\), and .* set training.workers=1"):
        train(world.data, str(tmp_path), world.model, made, generation=GENERATION)


def test_what_validation_lacks_is_said() -> None:
    with pytest.raises(UserError, match=r"keep_by=score .* nothing here scores videos; set training.keep_by=step$"):
        check_validation(validated(), GENERATION, None)
    with pytest.raises(UserError, match=r"makes no videos; set .*, or training.validation.every=4$"):
        check_validation(config(keep_by="score"), GENERATION, Judge(Path()))
    plain = validated().model_copy(update={"keep_by": "step"})
    with pytest.raises(UserError, match=r"every=4 makes videos and nothing says of what size; pass generation="):
        check_validation(plain, None, None)
    on_gpu = GENERATION.model_copy(update={"runtime": RuntimeConfig(device="cuda")})
    with pytest.raises(UserError, match=r"set training.validation.num_gpus=1"):
        check_validation(plain, on_gpu, None)
    check_validation(plain, GENERATION, None)
    check_validation(config(), None, None)


def test_a_validation_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"every=5 validates and there are no prompts; set prompts="):
        ValidationConfig(every=5)
    with pytest.raises(ValidationError, match="prompt 2 of 2 is blank"):
        ValidationConfig(prompts=("a", " "))
    with pytest.raises(
        ValidationError, match=r"every=6 is no multiple of checkpoint_every=4, .* set validation.every=8,"
    ):
        config(validation=ValidationConfig(every=6, prompts=PROMPTS))
