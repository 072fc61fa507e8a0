"""Clips -> latents, captions -> T5 tokens, captions -> LLM tokens: rows in, rows out, no file and no Ray.

Every function returns one row per input, in order. What cannot be encoded becomes a row with its reason, alone: a batch
that fails is halved until the row at fault is found.

Shapes: ``F H W`` frames, ``T h w`` latents, ``C`` latent channels, ``N`` T5 tokens, ``L`` LLM tokens, ``D`` width.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mimir_ray.config import UserError
from mimir_ray.dataflow import Row
from mimir_ray.model.config import SEMANTIC_TOKENS
from mimir_ray.model.latents import encode_moments
from mimir_ray.model.text_branches import LLMBranch, T5Branch
from mimir_ray.precompute.answers import Answers
from mimir_ray.precompute.config import PrecomputeConfig, Size
from mimir_ray.precompute.frames import choose_size, fit_frames
from mimir_ray.precompute.lengths import refused
from mimir_ray.precompute.outcomes import failed
from mimir_ray.precompute.sources import source_of
from mimir_ray.records import Clip, StateDtype, pack_array

ReadFrames = Callable[[Clip, Sequence[int]], npt.NDArray[np.uint8]]
"""Frames of a clip (F H W 3) by their indices within the clip; raises where they cannot be had."""

In = TypeVar("In")


def latent_rows(clips: Sequence[Clip], read: ReadFrames, vae: Any, config: PrecomputeConfig) -> list[Row]:
    """Posterior moments of each clip (mean | log-variance along C, T 2C h w); training draws from them each time.

    Clips are read source by source and forward through each. A batch holds clips of one size, so that as many clips of
    each size as a batch takes may wait for it.
    """
    rows: list[Row] = [{"clip_id": clip.clip_id} for clip in clips]
    waiting: defaultdict[Size, list[tuple[Row, npt.NDArray[np.uint8]]]] = defaultdict(list)
    by_source = sorted(zip(clips, rows, strict=True), key=lambda pair: (source_of(pair[0]), pair[0].first_frame))
    for clip, row in by_source:
        try:
            size, row["frame_indices"] = choose_size(clip, config)
            frames = fit_frames(read(clip, row["frame_indices"]), size.height, size.width)
        except Exception as error:
            row |= failed(error)
            continue
        batch = waiting[size]
        batch.append((row, frames))
        if len(batch) == config.latents.batch:
            _encode_clips(batch, vae, config)
            batch.clear()
    for batch in waiting.values():
        _encode_clips(batch, vae, config)
    return rows


def _encode_clips(batch: Sequence[tuple[Row, npt.NDArray[np.uint8]]], vae: Any, config: PrecomputeConfig) -> None:
    """Complete the rows of clips of one size."""

    def encode(members: Sequence[npt.NDArray[np.uint8]]) -> list[Row]:
        return [
            {"moments": _pack(moments, config.dtype), "shape": list(moments.shape)}
            for moments in encode_moments(vae, np.stack(members))
        ]

    encoded = _each([frames for _, frames in batch], config.latents.batch, encode)
    for (row, _), result in zip(batch, encoded, strict=True):
        row |= _stored(result, config)


def t5_rows(captions: Sequence[Mapping[str, str]], branch: T5Branch, config: PrecomputeConfig) -> list[Row]:
    """All N token states of each caption (clip_id, kind, text), pads included, as CogVideoX attends to them."""

    def encode(texts: Sequence[str]) -> list[Row]:
        return [
            {"states": _pack(states, config.dtype), "length": states.shape[0], "width": states.shape[1]}
            for states in branch.encode(texts)
        ]

    texts = {caption["text"] for caption in captions}
    too_long = refused(texts, branch) if config.long_captions == "reject" else {}
    return _text_rows(captions, encode, config.t5_tokens.batch, config, too_long)


def llm_rows(
    captions: Sequence[Mapping[str, str]],
    branch: LLMBranch,
    config: PrecomputeConfig,
    given: Mapping[str, Answers] | None = None,
) -> list[Row]:
    """Query states once, K answers (seeds ``seed`` .. ``seed + K - 1``) with states, and instruction tokens.

    The answers to each text are ``given``, or sampled here. The instruction tokens are those of the first seed: the
    row holds what ``MimirPipeline.encode_prompt`` gives for it.
    """

    def encode(texts: Sequence[str]) -> list[Row]:
        rows: list[Row] = []
        known = _sampled(texts, branch, config) if given is None else [given[text] for text in texts]
        for k in range(config.answers):
            seed = config.seed + k
            token_ids = [answers.sampled[k] for answers in known]
            queries, answers = branch.states(texts, token_ids)
            if k == 0:
                asked = known[:1] if branch.config.instruction_scope == "global" else known
                instructions = branch.instruction_states(texts, [ids for one in asked for ids in one.instructions])
                rows = [
                    {
                        "query_states": _pack(query, config.dtype),
                        "query_length": query.shape[0],
                        "width": query.shape[1],
                        "instruction_states": _pack(instruction, config.dtype),
                        "answers": [],
                    }
                    for query, instruction in zip(queries, instructions, strict=True)
                ]
            for row, ids, states in zip(rows, token_ids, answers, strict=True):
                packed = _pack(states, config.dtype)
                row["answers"].append({"seed": seed, "token_ids": ids, "states": packed, "length": len(ids)})
        return rows

    return _text_rows(captions, encode, config.llm_tokens.batch, config)


def _sampled(texts: Sequence[str], branch: LLMBranch, config: PrecomputeConfig) -> list[Answers]:
    seeds = [config.seed + k for k in range(config.answers)]
    sampled = [branch.answer(texts, [seed] * len(texts)) for seed in seeds]
    told = branch.instruction_answers(texts, seeds[:1] * len(texts))
    fours = [told[start : start + SEMANTIC_TOKENS] for start in range(0, len(told), SEMANTIC_TOKENS)]
    if branch.config.instruction_scope == "global":
        fours *= len(texts)
    return [Answers(list(ids), four) for ids, four in zip(zip(*sampled, strict=True), fours, strict=True)]


def _text_rows(
    captions: Sequence[Mapping[str, str]],
    encode: Callable[[Sequence[str]], list[Row]],
    batch: int,
    config: PrecomputeConfig,
    refused: Mapping[str, Exception] | None = None,
) -> list[Row]:
    """One row per caption; equal texts are encoded once, and texts of like length together (a batch is padded)."""
    encoded: dict[str, Row | Exception] = dict(refused or {})
    texts = sorted({caption["text"] for caption in captions} - encoded.keys(), key=lambda text: (len(text), text))
    encoded |= zip(texts, _each(texts, batch, encode), strict=True)
    return [
        {"clip_id": caption["clip_id"], "kind": caption["kind"], "text": caption["text"]}
        | _stored(encoded[caption["text"]], config)
        for caption in captions
    ]


def _each(items: Sequence[In], batch: int, encode: Callable[[Sequence[In]], list[Row]]) -> list[Row | Exception]:
    """``encode`` over batches; a batch that raises is halved until only the member at fault has the exception.

    Raises UserError where the GPU's memory does not hold a batch: that is about the configuration, not about a row.
    """
    results: list[Row | Exception] = []
    for start in range(0, len(items), batch):
        members = items[start : start + batch]
        try:
            results += encode(members)
        except torch.OutOfMemoryError as error:
            remedy = "lower the batch of the actor pool, or give it a larger GPU"
            raise UserError(f"a batch of {len(members)} does not fit the GPU's memory ({error}): {remedy}") from error
        except Exception as error:
            results += [error] if len(members) == 1 else _each(members, (len(members) + 1) // 2, encode)
    return results


def _stored(result: Row | Exception, config: PrecomputeConfig) -> Row:
    if isinstance(result, Exception):
        return failed(result)
    return {**result, "dtype": config.dtype, "status": "ok", "reason": ""}


def _pack(tensor: Tensor, dtype: StateDtype) -> bytes:
    return pack_array(tensor.float().cpu().numpy(), dtype)
