"""Stages with a model as scorers: a model, loaded once, and the frames of each clip that it is to look at."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mimir_ray.curation.captions import captions_of
from mimir_ray.curation.config import CurationConfig
from mimir_ray.curation.frames import clip_frames
from mimir_ray.curation.models.loading import Frames
from mimir_ray.curation.tables import ClipScorer
from mimir_ray.dataflow import Row
from mimir_ray.storage import LatestCopy, content_id

if TYPE_CHECKING:
    from mimir_ray.curation.models.vlm import Answer, Text

FramesOf = Callable[[Row], Frames]


_copies = LatestCopy()
"""The copy that this process holds: clips of a video are looked at one after another."""


def release() -> None:
    """Give back what was copied for the clips of a shard: films are large, and an actor waits for its next shard."""
    _copies.close()


def load_scorer(stage: str, config: CurationConfig) -> ClipScorer:
    """The scorer of a stage. Raises UserError for a model that is not there or does not fit."""
    loaders = {
        "aesthetic": aesthetic,
        "text_area": text_area,
        "watermark": watermark,
        "recaption": recaption,
        "agreement": agreement,
    }
    return loaders[stage](config)


def sampled_frames(clip: Row, count: int, config: CurationConfig) -> Frames:
    """`count` frames of a clip, evenly spread, F H W 3. Raises VideoError."""
    indices = sorted({int(index) for index in np.linspace(0, clip["frames"] - 1, count).round()})
    timeout_s, by_length = config.decode_timeout_s, config.limits.seconds_per_second
    return clip_frames(_copies.of(clip["path"]), clip, indices, timeout_s=timeout_s, seconds_per_second=by_length)


def aesthetic(config: CurationConfig) -> ClipScorer:
    """Scores `aesthetic_mean` and `aesthetic_min`."""
    from mimir_ray.curation.models.aesthetic import Aesthetic

    assert config.aesthetic != "off"
    model, look = Aesthetic(config.aesthetic), frames_of(config, config.aesthetic.frames)

    def scorer(clips: Sequence[Row]) -> list[Row]:
        scores = [model(look(clip)) for clip in clips]
        return [{"aesthetic_mean": score.mean, "aesthetic_min": score.min} for score in scores]

    return scorer


def text_area(config: CurationConfig) -> ClipScorer:
    """Scores `text_area`."""
    from mimir_ray.curation.models.text_area import TextArea

    assert config.text_area != "off"
    model, look = TextArea(config.text_area), frames_of(config, config.text_area.frames)
    return lambda clips: [{"text_area": model(look(clip))} for clip in clips]


def watermark(config: CurationConfig) -> ClipScorer:
    """Scores `watermark`, `watermark_margin` and `watermark_certainty`."""
    from mimir_ray.curation.models.vlm import Watermark

    assert config.watermark != "off"
    model, look = Watermark(config.watermark), frames_of(config, config.watermark.frames)

    def scorer(clips: Sequence[Row]) -> list[Row]:
        return [answer_scores(said) for said in model([look(clip) for clip in clips])]

    return scorer


def recaption(config: CurationConfig) -> ClipScorer:
    """Writes `recaption` and counts its `recaption_tokens`; a clip's draws are seeded by its id."""
    from mimir_ray.curation.models.vlm import Recaption

    assert config.recaption != "off"
    model, look = Recaption(config.recaption), frames_of(config, config.recaption.frames)

    def scorer(clips: Sequence[Row]) -> list[Row]:
        texts = model([look(clip) for clip in clips], [seed_of(clip["clip_id"]) for clip in clips])
        return [caption_scores(text) for text in texts]

    return scorer


def agreement(config: CurationConfig) -> ClipScorer:
    """Scores `caption_scores`, one for each of the clip's captions in their order; an empty one has none."""
    from mimir_ray.curation.models.agreement import Agreement

    assert config.agreement != "off"
    model, look = Agreement(config.agreement), frames_of(config, config.agreement.frames)

    def scorer(clips: Sequence[Row]) -> list[Row]:
        rows = []
        for clip in clips:
            frames, texts = look(clip), [caption["text"] for caption in captions_of(clip)]
            rows.append({"caption_scores": [model(frames, text) if text.strip() else None for text in texts]})
        return rows

    return scorer


def answer_scores(said: "Answer") -> Row:
    """The columns of an answer about a watermark."""
    return {"watermark": said.yes, "watermark_margin": said.margin, "watermark_certainty": said.certainty}


def caption_scores(text: "Text") -> Row:
    """The columns of a new caption."""
    return {"recaption": text.text, "recaption_tokens": text.tokens}


def seed_of(clip_id: str) -> int:
    """The seed of a clip's caption, 63 bits."""
    return int(content_id("recaption", clip_id), 16) >> 1


def frames_of(config: CurationConfig, count: int) -> FramesOf:
    """What samples so many frames of a clip."""
    return partial(sampled_frames, count=count, config=config)
