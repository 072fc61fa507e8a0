"""A call of ``MimirPipeline``: what it asks for, a row for each video and checked in words, its text and its steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from mimir_ray.config import UserError
from mimir_ray.model.offload import execution_device
from mimir_ray.model.sampling import DenoiseState, Sampler
from mimir_ray.model.tokens import TextTokens

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

Callback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]
"""Given the pipeline, the step from 0, its timestep and tensors by name; returns those that change."""


@dataclass(frozen=True)
class Rows:
    """The videos of a call: ``num_videos_per_prompt`` for each prompt, side by side."""

    prompts: Sequence[str]
    """None at all where the text condition is given in their place."""
    negative_prompts: Sequence[str]
    """Empty is the null condition."""
    seeds: Sequence[int]
    """What the LLM's answers of each row are drawn from."""
    generators: Sequence[torch.Generator]
    """What the noise is drawn from: one for each row, or one for all in turn."""
    videos: int
    """For each prompt."""

    @classmethod
    def read(
        cls,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        embedded: int | None,
        videos: int,
        seed: int | Sequence[int] | None,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        device: torch.device,
    ) -> Self:
        """The rows that the arguments of a call mean.

        Args:
            embedded: number of prompts whose text condition is given, or None.
            device: where noise is drawn that neither ``seed`` nor ``generator`` decides.

        Raises:
            UserError: arguments that exclude or do not fit one another.
        """
        if (prompt is None) == (embedded is None):
            given = "both are" if embedded is not None else "neither is"
            raise UserError(f"prompt or prompt_embeds says what the videos show, and {given} given: give one of them")
        if videos < 1:
            raise UserError(f"num_videos_per_prompt={videos} makes nothing: use 1 or more")
        prompts = [] if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
        count = len(prompts) if embedded is None else embedded
        if not count:
            raise UserError("the list of prompts is empty: give one at least")
        negatives = negative_prompt or ""
        negatives = [negatives] * count if isinstance(negatives, str) else list(negatives)
        _check_count("negative prompts", len(negatives), count)
        if seed is not None and generator is not None:
            raise UserError("seed and generator both decide the noise: give one of them")
        if generator is not None or seed is None:
            generators, seeds = _generators(generator, count * videos, device)
        else:
            firsts = [seed] * count if isinstance(seed, int) else list(seed)
            _check_count("seeds", len(firsts), count)
            seeds = [first + further for first in firsts for further in range(videos)]
            generators = [torch.Generator("cpu").manual_seed(value) for value in seeds]
        return cls(_each(prompts, videos), _each(negatives, videos), seeds, generators, videos)

    def embeds(self, name: str, embeds: Tensor, width: tuple[int, int]) -> Tensor:
        """A row of N D for each video, of given ones of each prompt. Raises UserError for another shape."""
        expected = (len(self.negative_prompts) // self.videos, *width)
        if tuple(embeds.shape) != expected:
            raise UserError(f"{name} is {_shape(embeds)}; this call needs {' x '.join(map(str, expected))}")
        return embeds.repeat_interleave(self.videos, dim=0)

    def noise(self, latents: Tensor, shape: Sequence[int]) -> Tensor:
        """The given start. Raises UserError where it is not a video of T C h w for each row."""
        expected = (len(self.negative_prompts), *shape)
        if tuple(latents.shape) != expected:
            raise UserError(f"latents is {_shape(latents)}; this call makes {' x '.join(map(str, expected))}")
        return latents


def check_output(output_type: str, tensor_inputs: Sequence[str], known_inputs: Sequence[str]) -> None:
    """Raise UserError for an unknown ``output_type`` or input of a callback."""
    if output_type not in OUTPUT_TYPES:
        raise UserError(f"output_type={output_type!r} is not known: use {', '.join(OUTPUT_TYPES)}")
    if unknown := [name for name in tensor_inputs if name not in known_inputs]:
        raise UserError(
            f"callback_on_step_end_tensor_inputs names {', '.join(map(repr, unknown))}: use any of "
            f"{', '.join(known_inputs)}"
        )


def text_of(
    pipeline: Any, rows: Rows, prompt_embeds: Tensor | None, negative_prompt_embeds: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What the transformer reads for each row, and what guidance leads away from, both B N' D."""
    fuser = pipeline.token_fuser
    width = fuser.sequence_length, int(fuser.config.text_dim)
    where = execution_device(pipeline.transformer), pipeline.transformer.dtype
    if prompt_embeds is None:
        text, null = pipeline.condition(pipeline.encode_prompt(rows.prompts, rows.seeds))
    else:
        text = rows.embeds("prompt_embeds", prompt_embeds, width).to(*where)
        _, null = pipeline.condition(TextTokens.blank(len(text), fuser.config, execution_device(fuser)))
    if negative_prompt_embeds is not None:
        null = rows.embeds("negative_prompt_embeds", negative_prompt_embeds, width).to(*where)
    elif any(rows.negative_prompts):
        negative, _ = pipeline.condition(pipeline.encode_prompt(rows.negative_prompts, rows.seeds))
        said = torch.tensor([bool(prompt) for prompt in rows.negative_prompts], device=null.device)
        null = torch.where(said.view(-1, 1, 1), negative, null)
    return text, null


def denoise(
    pipeline: Any,
    sampler: Sampler,
    state: DenoiseState,
    text: Tensor,
    null: Tensor,
    callback: Callback | None,
    tensor_inputs: Sequence[str],
) -> DenoiseState:
    """The last state of a run, with a callback after each step that may change its tensors, or end it."""
    pipeline._interrupt = False
    guided = state.guidance_scale > 1
    while not (state.finished or pipeline._interrupt):
        timestep = sampler.timestep(state)
        state = sampler.step(state, text, null)
        if callback is None:
            continue
        read = torch.cat([null, text]) if guided else text
        tensors = {"latents": state.latents, "prompt_embeds": read, "negative_prompt_embeds": null}
        shown = {name: tensors[name] for name in tensor_inputs}
        changed = callback(pipeline, state.step - 1, timestep, shown) or {}
        state = replace(state, latents=changed.get("latents", state.latents))
        read = changed.get("prompt_embeds", read)
        null, text = read.chunk(2) if guided else (null, read)
    return state


def _generators(given: Any, rows: int, device: torch.device) -> tuple[list[torch.Generator], list[int]]:
    """Generators, and the seed that each row's answers are drawn from."""
    if given is None:
        given = torch.default_generator if device.type != "cuda" else torch.cuda.default_generators[device.index or 0]
    if isinstance(given, torch.Generator):
        return [given], [given.initial_seed()] * rows
    generators = list(given)
    _check_count("generators", len(generators), rows, "videos")
    return generators, [one.initial_seed() for one in generators]


def _each(values: Sequence[str], videos: int) -> list[str]:
    return [value for value in values for _ in range(videos)]


def _check_count(what: str, count: int, expected: int, of: str = "prompts") -> None:
    if count != expected:
        raise UserError(f"{count} {what} for {expected} {of}: give one, or one for each")


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
