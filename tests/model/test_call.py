"""A call of ``MimirPipeline`` takes what one of diffusers' ``CogVideoXPipeline`` takes, and makes the same of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from diffusers.callbacks import PipelineCallback
from diffusers.utils import export_to_video

from mimir_ray.config import UserError
from mimir_ray.model.pipeline import MimirPipeline
from tests.model.conftest import PROMPTS
from tests.tiny import TEXT_DIM, TEXT_LENGTH, frames_of

SHORT: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}
NEGATIVE = ["a blue box", "green"]


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture(scope="module")
def pair(base_5b: Path) -> tuple[MimirPipeline, CogVideoXPipeline]:
    """A base under our pipeline and under diffusers': DPM, which draws noise in every step."""
    return load_pair(base_5b)


def load_pair(base: Path) -> tuple[MimirPipeline, CogVideoXPipeline]:
    theirs = CogVideoXPipeline.from_pretrained(base)
    theirs.set_progress_bar_config(disable=True)
    return MimirPipeline.from_base(base), theirs


def both(pair: tuple[MimirPipeline, CogVideoXPipeline], arguments: Callable[[], dict[str, Any]]) -> tuple[Any, Any]:
    """Frames of both under the same arguments, made anew for each, as generators are used up."""
    ours, theirs = pair
    return (
        ours(**SHORT | arguments()).frames,
        theirs(**SHORT | {"max_sequence_length": TEXT_LENGTH} | arguments()).frames,
    )


CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "one generator for all": lambda: {"prompt": PROMPTS, "generator": generators(5)[0]},
    "a list of generators": lambda: {"prompt": PROMPTS, "generator": generators(5, 6)},
    "a list of one": lambda: {"prompt": PROMPTS[0], "generator": generators(5)},
    "one negative prompt": lambda: {"prompt": PROMPTS, "negative_prompt": "a blue box", "generator": generators(5, 6)},
    "negative prompts": lambda: {"prompt": PROMPTS, "negative_prompt": NEGATIVE, "generator": generators(5, 6)},
    "no guidance": lambda: {"prompt": PROMPTS[0], "guidance_scale": 1.0, "generator": generators(5)},
    "its own noise": lambda: {
        "prompt": PROMPTS,
        "latents": torch.randn(2, 3, 16, 8, 8, generator=generators(9)[0]),
        "generator": generators(5)[0],
    },
    "embeds": lambda: {"prompt_embeds": embeds(1), "negative_prompt_embeds": embeds(2), "generator": generators(5, 6)},
    "embeds and a negative prompt": lambda: {
        "prompt_embeds": embeds(1),
        "negative_prompt": NEGATIVE,
        "generator": generators(5, 6),
    },
    "embeds alone": lambda: {"prompt_embeds": embeds(1), "generator": generators(5, 6)},
    "another size": lambda: {
        "prompt": PROMPTS[0],
        "generator": generators(5),
        "height": 32,
        "width": 48,
        "num_frames": 17,
    },
}


def embeds(seed: int) -> torch.Tensor:
    return torch.randn(2, TEXT_LENGTH, TEXT_DIM, generator=generators(seed)[0])


@pytest.mark.parametrize("call", CALLS)
def test_a_base_makes_of_a_call_what_diffusers_makes_of_it(pair: Any, call: str) -> None:
    ours, theirs = both(pair, CALLS[call])
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("base", ["base_2b", "base_15"])
def test_other_bases_too(base: str, request: pytest.FixtureRequest) -> None:
    """Of CogVideoX 1.5 the latents have the padding of its temporal patches, as diffusers gives them."""
    pair = load_pair(request.getfixturevalue(base))
    for call in ("negative prompts", "one generator for all"):
        ours, theirs = both(pair, CALLS[call])
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_every_output_is_that_of_diffusers(pair: Any, output_type: str) -> None:
    ours, theirs = both(pair, lambda: CALLS["a list of generators"]() | {"output_type": output_type})
    assert type(ours) is type(theirs)
    if output_type == "pil":
        assert [[image.mode for image in video] for video in ours] == [["RGB"] * 9] * 2
        ours, theirs = ([[np.asarray(image) for image in video] for video in made] for made in (ours, theirs))
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape == ((2, 9, 3, 64, 64) if output_type == "pt" else (2, 9, 64, 64, 3))
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)


def test_the_default_is_images_and_a_tuple_where_asked(pair: Any) -> None:
    (made,) = pair[0](PROMPTS[0], num_inference_steps=1, seed=1, return_dict=False)
    assert made[0][0].size == (64, 64)


def test_half_precision_is_that_of_diffusers_within_its_rounding(base_5b: Path) -> None:
    ours = MimirPipeline.from_base(base_5b, dtype=torch.bfloat16)
    theirs = CogVideoXPipeline.from_pretrained(base_5b, dtype=torch.bfloat16)
    theirs.set_progress_bar_config(disable=True)
    latents, expected = both((ours, theirs), CALLS["negative prompts"])
    assert torch.equal(latents, expected)
    made, expected = both((ours, theirs), lambda: CALLS["negative prompts"]() | {"output_type": "np"})
    assert np.abs(made - expected).max() <= 2**-8  # diffusers rounds to bfloat16 between 0 and 1 once more


def test_without_seed_and_generator_the_noise_is_of_torchs_own(pair: Any) -> None:
    made = []
    for pipeline in pair:
        torch.manual_seed(3)
        lengths = {"max_sequence_length": TEXT_LENGTH} if pipeline is pair[1] else {}
        made.append([pipeline(PROMPTS, **SHORT, **lengths).frames for _ in range(2)])
    assert torch.equal(made[0][0], made[1][0])
    assert torch.equal(made[0][1], made[1][1])
    assert not torch.equal(made[0][0], made[0][1])


def test_a_generator_goes_on_from_call_to_call(pair: Any) -> None:
    made = []
    for pipeline in pair:
        (generator,) = generators(5)
        lengths = {"max_sequence_length": TEXT_LENGTH} if pipeline is pair[1] else {}
        made.append([pipeline(PROMPTS[0], generator=generator, **SHORT, **lengths).frames for _ in range(2)])
    assert torch.equal(made[0][1], made[1][1])
    assert not torch.equal(made[0][0], made[0][1])


def test_several_videos_of_a_prompt_are_those_of_the_prompt_several_times(pair: Any, mimir: Path) -> None:
    """diffusers' CogVideoX takes ``num_videos_per_prompt`` and makes one whatever it is."""
    ours, theirs = pair
    made = ours(PROMPTS, num_videos_per_prompt=2, negative_prompt=NEGATIVE, generator=generators(1, 2, 3, 4), **SHORT)
    expected = theirs(
        [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2,
        [NEGATIVE[0]] * 2 + [NEGATIVE[1]] * 2,
        generator=generators(1, 2, 3, 4),
        max_sequence_length=TEXT_LENGTH,
        **SHORT,
    )
    assert torch.equal(made.frames, expected.frames)
    assert torch.equal(
        ours(prompt_embeds=embeds(1), num_videos_per_prompt=2, seed=[1, 3], **SHORT).frames,
        ours(prompt_embeds=embeds(1).repeat_interleave(2, 0), seed=[1, 2, 3, 4], **SHORT).frames,
    )
    pipeline = MimirPipeline.from_pretrained(mimir)
    made = frames_of(pipeline, PROMPTS[0], num_videos_per_prompt=2, seed=7, num_inference_steps=2)
    apart = [frames_of(pipeline, PROMPTS[0], seed=seed, num_inference_steps=2)[0] for seed in (7, 8)]
    assert np.abs(made.astype(int) - np.stack(apart)).max() <= 2
    assert not np.array_equal(*made)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_callback_sees_and_changes_what_diffusers_shows_it(pair: Any, guidance: float) -> None:
    seen: list[list[Any]] = [[], []]
    inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def change(pipeline: Any, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        shapes = {name: None if tensor is None else tuple(tensor.shape) for name, tensor in tensors.items()}
        seen[isinstance(pipeline, CogVideoXPipeline)].append((step, int(timestep), shapes))
        return {"latents": tensors["latents"] * 0.9, "prompt_embeds": tensors["prompt_embeds"] + step}

    made, expected = both(
        pair,
        lambda: (
            CALLS["negative prompts"]()
            | {
                "guidance_scale": guidance,
                "callback_on_step_end": change,
                "callback_on_step_end_tensor_inputs": inputs if guidance > 1 else inputs[:2],
            }
        ),
    )
    assert torch.equal(made, expected)
    assert seen[0] == seen[1]
    assert [step for step, *_ in seen[0]] == [0, 1, 2]
    assert not torch.equal(made, both(pair, CALLS["negative prompts"])[0])


def test_a_callback_may_say_nothing_end_the_run_or_cancel_it(pair: Any) -> None:
    ours = pair[0]
    steps: list[int] = []

    def end(pipeline: Any, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> None:
        steps.append(step)
        pipeline._interrupt = step == 1

    made = ours(PROMPTS[0], seed=1, callback_on_step_end=end, **SHORT).frames
    assert steps == [0, 1]
    assert not torch.equal(made, ours(PROMPTS[0], seed=1, **SHORT).frames)

    def cancel(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ours(PROMPTS[0], seed=1, callback_on_step_end=cancel, **SHORT)


def test_a_callback_of_diffusers_classes_names_its_own_tensors(pair: Any) -> None:
    class Halve(PipelineCallback):  # type: ignore[misc]
        @property
        def tensor_inputs(self) -> list[str]:
            return ["latents", "prompt_embeds"]

        def callback_fn(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            assert tensors.keys() == {"latents", "prompt_embeds"}
            return {"latents": tensors["latents"] / 2}

    made, expected = both(
        pair, lambda: CALLS["a list of generators"]() | {"callback_on_step_end": Halve(cutoff_step_ratio=1.0)}
    )
    assert torch.equal(made, expected)


def test_a_generator_means_what_its_seed_means(mimir: Path) -> None:
    """The LLM's answers too."""
    pipeline = MimirPipeline.from_pretrained(mimir)
    expected = frames_of(pipeline, PROMPTS, seed=[5, 6], **SHORT | {"output_type": "pil"})
    made = frames_of(pipeline, PROMPTS, seed=None, generator=generators(5, 6), **SHORT | {"output_type": "pil"})
    assert np.array_equal(made, expected)


def test_a_mimirs_embeds_are_its_fused_condition(mimir: Path) -> None:
    pipeline = MimirPipeline.from_pretrained(mimir)
    expected = pipeline(PROMPTS, seed=[5, 6], **SHORT).frames
    text, null = pipeline.condition(pipeline.encode_prompt(PROMPTS, [5, 6]))
    assert text.shape[1] == TEXT_LENGTH + 4
    assert torch.equal(pipeline(prompt_embeds=text, seed=[5, 6], **SHORT).frames, expected)
    given = pipeline(prompt_embeds=text, negative_prompt_embeds=null, seed=[5, 6], **SHORT).frames
    assert torch.equal(given, expected)


def test_a_mimir_reads_a_negative_prompt_with_both_branches(mimir: Path) -> None:
    """An empty one is its null condition, which None is too."""
    pipeline = MimirPipeline.from_pretrained(mimir)
    none = pipeline(PROMPTS, seed=[5, 6], **SHORT).frames
    made = pipeline(PROMPTS, ["", NEGATIVE[1]], seed=[5, 6], **SHORT).frames
    negative, _ = pipeline.condition(pipeline.encode_prompt(["", NEGATIVE[1]], [5, 6]))
    text, null = pipeline.condition(pipeline.encode_prompt(PROMPTS, [5, 6]))
    mixed = torch.stack([null[0], negative[1]])
    given = pipeline(prompt_embeds=text, negative_prompt_embeds=mixed, seed=[5, 6], **SHORT).frames
    assert torch.equal(made, given)
    assert torch.equal(made[0], none[0])
    assert not torch.equal(made[1], none[1])


def test_diffusers_writes_our_videos_in_their_colours(mimir: Path, tmp_path: Path) -> None:
    """The colours of a video that is mostly red, and not its negative, whatever the form."""
    pipeline = MimirPipeline.from_pretrained(mimir)
    red = torch.tensor([0.9, -0.8, -0.8]).view(1, 3, 1, 1, 1).expand(1, 3, 9, 64, 64)
    pipeline.vae.decode = lambda latents: type("Decoded", (), {"sample": red})()
    for output_type in ("pil", "np"):
        video = pipeline(PROMPTS[0], seed=1, num_inference_steps=1, output_type=output_type).frames[0]
        path = export_to_video(video, str(tmp_path / f"{output_type}.mp4"), fps=8)
        with av.open(path) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == 9
        assert np.abs(np.mean(frames, axis=(0, 1, 2)) - np.array([242, 26, 26])).max() < 12


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "neither is given: give one of them"),
    "both": ({"prompt": "a", "prompt_embeds": torch.zeros(1, 24, 32)}, "both are given"),
    "no prompts": ({"prompt": []}, "list of prompts is empty"),
    "seed and generator": ({"prompt": "a", "seed": 1, "generator": generators(1)}, "seed and generator both"),
    "generators": ({"prompt": PROMPTS, "generator": generators(1, 2, 3)}, "3 generators for 2 videos"),
    "generators of videos": (
        {"prompt": PROMPTS, "num_videos_per_prompt": 2, "generator": generators(1, 2)},
        "2 generators for 4 videos: give one, or one for each",
    ),
    "seeds": ({"prompt": PROMPTS, "seed": [1]}, "1 seeds for 2 prompts"),
    "negatives": ({"prompt": PROMPTS, "negative_prompt": ["a"]}, "1 negative prompts for 2 prompts"),
    "negative twice": (
        {"prompt": "a", "negative_prompt": "b", "negative_prompt_embeds": torch.zeros(1, 24, 32)},
        "negative_prompt and negative_prompt_embeds",
    ),
    "long negative": ({"prompt": "a", "negative_prompt": "red " * 30}, "has 31 text tokens; this model reads 24"),
    "embeds": ({"prompt_embeds": torch.zeros(1, 24, 16)}, "prompt_embeds is 1 x 24 x 16; this call needs 1 x 24 x 32"),
    "negative embeds": (
        {"prompt": PROMPTS, "negative_prompt_embeds": torch.zeros(1, 24, 32)},
        "negative_prompt_embeds is 1 x 24 x 32; this call needs 2 x 24 x 32",
    ),
    "latents": (
        {"prompt": "a", "latents": torch.zeros(1, 3, 16, 4, 4)},
        "latents is 1 x 3 x 16 x 4 x 4; this call makes 1 x 3 x 16 x 8 x 8",
    ),
    "output": ({"prompt": "a", "output_type": "numpy"}, "output_type='numpy' is not known: use pil, np, pt, latent"),
    "tensors": (
        {"prompt": "a", "callback_on_step_end_tensor_inputs": ["latents", "noise"]},
        "names 'noise': use any of latents, prompt_embeds, negative_prompt_embeds",
    ),
    "videos": ({"prompt": "a", "num_videos_per_prompt": 0}, "num_videos_per_prompt=0 makes nothing"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_said_before_any_work(pair: Any, mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, told = MISTAKES[mistake]

    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("it computed")

    monkeypatch.setattr(pair[0].transformer, "forward", work)
    with pytest.raises(UserError, match=told):
        pair[0](**{"num_inference_steps": 1} | arguments)
