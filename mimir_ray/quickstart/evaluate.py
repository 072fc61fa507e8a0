"""Videos of fixed prompts by base and Mimir, and what the exact scorer says of them."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mimir_ray.console import silence_loading_bars, time_left
from mimir_ray.generation.config import GenerationConfig
from mimir_ray.generation.naming import model_name
from mimir_ray.quickstart.journal import RunningStage
from mimir_ray.quickstart.report import Example
from mimir_ray.records import GenerationRequest
from mimir_ray.shapes.language import long_caption
from mimir_ray.shapes.prompts import PROMPT_SETS, PromptSet, ScenePrompt, evaluation_prompts
from mimir_ray.shapes.scoreboard import Share, floor, score_all, tally
from mimir_ray.shapes.scorer import score
from mimir_ray.shapes.world import Frames, render
from mimir_ray.video import encode_mp4, read_frames, write_mp4

if TYPE_CHECKING:
    from mimir_ray.generation.batch import Progress

Prompts = Mapping[PromptSet, Sequence[ScenePrompt]]


@dataclass(frozen=True)
class Evaluation:
    """Scores by prompt list, axis and who, and every prompt with its videos."""

    scores: dict[PromptSet, dict[str, dict[str, Share]]]
    examples: list[Example]
    frames: list[list[Frames]]
    """The frames (F H W 3) of each model, for each example."""

    def of(self, name: PromptSet) -> Iterator[tuple[Example, list[Frames]]]:
        """The examples of one prompt list, with their frames."""
        pairs = zip(self.examples, self.frames, strict=True)
        return ((example, frames) for example, frames in pairs if example.prompt_set == name)

    def figures(self) -> dict[str, Any]:
        """The scores as plain data: right, of and the 95% interval."""

        def figure(share: Share) -> dict[str, Any]:
            return {"right": share.right, "of": share.total, "interval": list(share.interval)}

        return {
            name: {axis: {who: figure(share) for who, share in shares.items()} for axis, shares in axes.items()}
            for name, axes in self.scores.items()
        }


@dataclass(frozen=True)
class Made:
    """The videos of one model: files in the order of the prompts, and whether all of them were there before."""

    files: list[Path]
    reused: bool


def fixed_prompts(count: int) -> Prompts:
    """The same ``count`` prompts of each list on every machine."""
    return {name: evaluation_prompts(name, count) for name in PROMPT_SETS}


def requests_of(prompts: Prompts, model: str, config: GenerationConfig, seed: int) -> list[GenerationRequest]:
    """A request for each prompt, list after list. The seed counts on within a list and does not depend on the model."""
    return [
        config.request(prompt.text, model, seed + index)
        for listed in prompts.values()
        for index, prompt in enumerate(listed)
    ]


def generate(
    prompts: Prompts, checkpoint: str, out: Path, config: GenerationConfig, seed: int, stage: RunningStage
) -> Made:
    """Make the videos that are missing, in a folder named after the model's content."""
    from mimir_ray.generation.batch import generate_batch

    model = model_name(checkpoint, config.runtime.lora)
    folder = out / model
    asked = requests_of(prompts, model, config, seed)
    files = [folder / "videos" / f"{request.request_id}.mp4" for request in asked]
    reused = all(file.exists() for file in files)

    def show(progress: "Progress") -> None:
        stage(progress.done, progress.total, f"{progress.videos_per_s:.1f} videos/s  {time_left(progress.left_s)}")

    generate_batch(asked, checkpoint, str(folder), config, on_progress=show)
    return Made(files, reused)


def evaluate(
    prompts: Prompts,
    videos: Mapping[str, Sequence[Path]],
    truth: Path,
    config: GenerationConfig,
    answers: Sequence[str],
) -> Evaluation:
    """Score the videos (model -> files in the order of the prompts) between floor and ceiling.

    Floor and ceiling are true videos: rendered from the prompts' scenes, written as mp4 below ``truth`` and read back.
    """
    scores: dict[PromptSet, dict[str, dict[str, Share]]] = {}
    examples: list[Example] = []
    frames: list[list[Frames]] = []
    start = 0
    for name, listed in prompts.items():
        true = [_true_video(truth / f"{name}-{index}.mp4", prompt, config) for index, prompt in enumerate(listed)]
        here = slice(start, start + len(listed))
        made = {model: [_read(file, config) for file in files[here]] for model, files in videos.items()}
        verdicts = {
            model: [score(video, prompt.scene) for video, prompt in zip(of_model, listed, strict=True)]
            for model, of_model in made.items()
        }
        shares = {who: tally(found) for who, found in verdicts.items()}
        shares |= {"floor": floor(true, listed), "ceiling": score_all(true, listed)}
        scores[name] = {axis: {who: shares[who][axis] for who in shares} for axis in shares["ceiling"]}
        for index, prompt in enumerate(listed):
            of_prompt = [made[model][index] for model in videos]
            frames.append(of_prompt)
            examples.append(
                Example(
                    prompt_set=name,
                    prompt=prompt.text,
                    meaning="" if name == "long" else long_caption(prompt.scene, random.Random(0)),
                    answer=answers[start + index],
                    videos=[
                        (encode_mp4(video, config.fps), verdicts[model][index])
                        for model, video in zip(videos, of_prompt, strict=True)
                    ],
                )
            )
        start += len(listed)
    return Evaluation(scores, examples, frames)


def llm_answers(checkpoint: str, prompts: Prompts, config: GenerationConfig, seed: int) -> list[str]:
    """What the LLM of a Mimir says to each prompt: the very answer that its video was made from."""
    from mimir_ray.generation.checkpoint import load_pipeline

    silence_loading_bars()
    branch = load_pipeline(checkpoint, config.runtime).llm_branch
    if branch is None:
        return ["" for listed in prompts.values() for _ in listed]
    asked = requests_of(prompts, checkpoint, config, seed)
    answers = branch.answer([request.prompt for request in asked], [request.seed for request in asked])
    return [branch.decode(answer) for answer in answers]


def _true_video(file: Path, prompt: ScenePrompt, config: GenerationConfig) -> Frames:
    if not file.exists():
        write_mp4(file, render(prompt.scene, config.num_frames), config.fps)
    return _read(file, config)


def _read(file: Path, config: GenerationConfig) -> Frames:
    """The frames of a video; of one that could not be made, black ones, which are right on no axis."""
    if not file.exists():
        return np.zeros((config.num_frames, config.height, config.width, 3), np.uint8)
    return read_frames(file, range(config.num_frames)).frames
