"""CLIP score: how well a caption agrees with the frames of its clip."""

import re

from mimir_ray.curation.models.clip import ClipModel
from mimir_ray.curation.models.config import AgreementConfig
from mimir_ray.curation.models.loading import Frames

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\s*\n\s*")


class Agreement:
    """Scores a caption against the frames of a clip, as a cosine (not times CLIP's logit scale)."""

    def __init__(self, config: AgreementConfig) -> None:
        self.clip = ClipModel(config.clip)

    def __call__(self, frames_FHWC: Frames, caption: str) -> float:
        """Mean cosine over all pairs of a frame and a piece of the caption, -1 to 1.

        CLIP reads 77 tokens and understands short texts best, so a piece is a sentence, and a sentence that is longer
        than that is several. Raises ValueError for a caption without words.
        """
        texts = sentences(caption)
        if not texts:
            raise ValueError("the caption is empty: a CLIP score needs words")
        cosines_FP = self.clip.image_features(frames_FHWC) @ self.clip.text_features(texts).T
        return float(cosines_FP.mean())


def sentences(text: str) -> list[str]:
    """The sentences of a text, none of them empty."""
    return [sentence for sentence in (piece.strip() for piece in _SENTENCE_END.split(text)) if sentence]
