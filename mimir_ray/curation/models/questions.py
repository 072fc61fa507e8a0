"""The stages that ask a vision-language model, for an engine: a clip becomes a prompt, an answer becomes scores.

The scores are those of `scorers`. Frames are the same ones, and reach the engine as JPEGs: a clip's eight frames of
720p are 2 MB so, where 22 MB of pixels for each of a shard's clips would flood the object store.
"""

import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mimir_ray.curation.config import CurationConfig
from mimir_ray.curation.models.config import LIKELIEST_TOKENS
from mimir_ray.curation.models.loading import Frames, images
from mimir_ray.curation.models.scorers import answer_scores, caption_scores, frames_of, seed_of
from mimir_ray.curation.models.vlm import Text, answer, asked, load_processor, one_paragraph, rendered, word_ids
from mimir_ray.dataflow import Row

JPEG_QUALITY = 95


@dataclass(frozen=True)
class ClipQuestion:
    """What a stage asks about a clip, and what it makes of the answer."""

    ask: Callable[[Row], Row]
    """The columns `prompt`, `images` and `sampling` of a clip, as `mimir_ray.vllm` describes them."""
    read: Callable[[Row], Row]
    """From an answered row to the columns of the clip's scores."""


def load_question(stage: str, config: CurationConfig) -> ClipQuestion:
    """The question of a stage. Raises UserError for a model that is not there or cannot be asked."""
    return {"watermark": _watermark, "recaption": _recaption}[stage](config)


def _watermark(config: CurationConfig) -> ClipQuestion:
    assert config.watermark != "off"
    processor, question = load_processor(config.watermark.vlm), config.watermark.question
    yes_ids, no_ids = word_ids(processor.tokenizer, "yes"), word_ids(processor.tokenizer, "no")
    look = frames_of(config, config.watermark.frames)
    sampling = json.dumps({"max_tokens": 1, "temperature": 0.0, "logprobs": LIKELIEST_TOKENS})

    def ask(clip: Row) -> Row:
        frames = look(clip)
        return {"prompt": rendered(processor, len(frames), question), "images": jpegs(frames), "sampling": sampling}

    def read(row: Row) -> Row:
        log_p = dict(zip(map(int, row["first_ids"]), map(float, row["first_log_p"]), strict=True))
        return answer_scores(answer(word_log_p(log_p, yes_ids), word_log_p(log_p, no_ids)))

    return ClipQuestion(ask, read)


def _recaption(config: CurationConfig) -> ClipQuestion:
    recaption = config.recaption
    assert recaption != "off"
    processor, look = load_processor(recaption.vlm), frames_of(config, recaption.frames)
    sampling = {"max_tokens": recaption.max_new_tokens, "temperature": recaption.temperature, "top_p": recaption.top_p}

    def ask(clip: Row) -> Row:
        frames = look(clip)
        prompt = rendered(processor, len(frames), asked(recaption, len(frames)))
        drawn = json.dumps({**sampling, "seed": seed_of(clip["clip_id"])})
        return {"prompt": prompt, "images": jpegs(frames), "sampling": drawn}

    def read(row: Row) -> Row:
        return caption_scores(Text(one_paragraph(row["text"]), len(row["tokens"])))

    return ClipQuestion(ask, read)


def word_log_p(log_p: Mapping[int, float], ids: list[int]) -> float:
    """Log-probability of a word, by all the tokens that spell it. One that is not among the likeliest counts as the
    last of them: it is no likelier, so the truth is further from the other word than this says.

    Raises ValueError where the model computed NaN, or told nothing.
    """
    known = [log_p[token] for token in ids if token in log_p] or [min(log_p.values(), default=math.nan)]
    top = max(known)
    word = top + math.log(sum(math.exp(value - top) for value in known))
    if math.isnan(word):
        raise ValueError("the model computes NaN of this clip")
    return word


def jpegs(frames_FHWC: Frames) -> list[bytes]:
    """Frames as JPEGs, with colour in full resolution."""
    made = []
    for image in images(frames_FHWC):
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        made.append(stream.getvalue())
    return made
