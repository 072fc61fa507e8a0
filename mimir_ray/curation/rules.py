"""The one place where thresholds of appendix A meet scores: pure, last, and cheap to run again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import pyarrow as pa

from mimir_ray.config import Config
from mimir_ray.curation.config import BasicRules, CaptionRules, CurationConfig, LookRules, QualityRules
from mimir_ray.curation.tables import SCORES, SPLIT_SCHEMA


class Rules(Config):
    """Every threshold, and nothing that it takes time to change."""

    basic: BasicRules
    quality: QualityRules
    look: LookRules
    captions: CaptionRules | Literal["off"]

    @classmethod
    def of(cls, config: CurationConfig) -> "Rules":
        """The rules of a configuration."""
        return cls(basic=config.basic, quality=config.quality, look=config.look, captions=config.captions)


_COLUMNS = pa.unify_schemas([SPLIT_SCHEMA, *SCORES.values()])


@dataclass(frozen=True)
class Rule:
    """A score, what it must be, and how to say that it is not."""

    name: str
    score: str
    """A column of `clips`, or `aspect`: width over height."""
    must_be: Literal["at least", "at most", "more than"]
    limit: str
    """The field of `Rules` that holds it."""
    words: str

    @property
    def stage(self) -> str:
        """The stage that makes the score. Raises ValueError where none does: such a rule would never be applied."""
        column = "width_px" if self.score == "aspect" else self.score
        for stage, schema in {"split": SPLIT_SCHEMA, **SCORES}.items():
            if column in schema.names:
                return stage
        raise ValueError(f"the rule {self.name} is on {self.score!r}, which no stage makes: name a column of SCORES")

    @property
    def yes_or_no(self) -> bool:
        """Whether the score is a fact that is so or not."""
        return self.score != "aspect" and bool(_COLUMNS.field(self.score).type == pa.bool_())

    def limit_in(self, rules: Rules) -> float:
        """The threshold."""
        section, _, field = self.limit.partition(".")
        return float(getattr(getattr(rules, section), field))

    def meets(self, value: float, limit: float) -> bool:
        """Whether a value passes."""
        if self.must_be == "at least":
            return value >= limit
        return value <= limit if self.must_be == "at most" else value > limit


RULES = (
    Rule("frames", "frames", "at least", "basic.min_frames", "has {value} frames, at least {limit} are needed"),
    Rule(
        "duration", "duration_s", "at least", "basic.min_duration_s", "lasts {value} s, at least {limit} s are needed"
    ),
    Rule(
        "aspect",
        "aspect",
        "at least",
        "basic.min_aspect",
        "is too tall: {size} is {value} wide to 1 high, at least {limit} is needed",
    ),
    Rule(
        "aspect",
        "aspect",
        "at most",
        "basic.max_aspect",
        "is too wide: {size} is {value} wide to 1 high, at most {limit} is allowed",
    ),
    *(
        Rule(name, name, "at most", f"basic.allow_{name}", f"{words}: curation.basic.allow_{name}=false excludes it")
        for name, words in (
            ("hdr", "is HDR, mapped to SDR"),
            ("interlaced", "is interlaced, deinterlaced here"),
            ("anamorphic", "has pixels that are not square, stretched here"),
            ("rotated", "is stored turned or mirrored, set upright here"),
        )
    ),
    Rule(
        "motion",
        "motion",
        "more than",
        "basic.motion_epsilon",
        "stands still: motion {value} of the diagonal, more than {limit} is needed",
    ),
    Rule(
        "black_area",
        "black_area",
        "at most",
        "quality.max_black_area",
        "is mostly black: {value} of its area, at most {limit} is allowed",
    ),
    Rule(
        "brightness",
        "brightness",
        "at least",
        "quality.min_brightness",
        "is too dark: brightness {value}, at least {limit} is needed",
    ),
    Rule(
        "black_frame_rate",
        "black_frame_rate",
        "at most",
        "quality.max_black_frame_rate",
        "has too many black frames: {value} of them, at most {limit} is allowed",
    ),
    Rule(
        "aesthetic",
        "aesthetic_mean",
        "at least",
        "look.min_aesthetic",
        "is not pretty enough: aesthetic score {value}, at least {limit} is needed",
    ),
    Rule(
        "text_area",
        "text_area",
        "at most",
        "look.max_text_area",
        "is covered by text: {value} of its area, at most {limit} is allowed",
    ),
    Rule(
        "watermark",
        "watermark_margin",
        "at most",
        "look.max_watermark_margin",
        "has a watermark: the model's log-odds for it are {value}, at most {limit} is allowed",
    ),
)
"""The rules in the paper's order; what `basic.allow_*` says comes after the other facts of the file."""

NEEDED: dict[str, list[str]] = {"agreement": ["caption_scores"]}
"""Scores that are held against a rule, by the stage that makes them; captions have a rule of their own."""
for _rule in RULES:
    NEEDED.setdefault(_rule.stage, []).append(_rule.score)


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """A rule that a clip or a caption does not meet."""

    rule: str
    reason: str
    """The value and the limit in words."""
    value: float | None = None
    """None where the rule is no limit on a number."""
    limit: float | None = None


def shortfalls(clip: Mapping[str, Any], rules: Rules) -> list[Shortfall]:
    """Every rule that the clip (columns of `clips`) falls short of by its scores so far, in the paper's order.

    Only where nothing is `missing` does none of them mean that the clip is kept.
    """
    found = []
    for rule in RULES:
        value, limit = score_of(clip, rule.score), rule.limit_in(rules)
        if value is not None and not rule.meets(value, limit):
            size = f"{clip['width_px']}x{clip['height_px']}"
            reason = rule.words.format(size=size, value=shown(value, limit), limit=f"{limit:g}")
            found.append(Shortfall(rule=rule.name, value=value, limit=limit, reason=reason))
    return found


def missing(scores: Mapping[str, Any], stage: str) -> str:
    """The first score that a rule needs and `stage` has not given, or that is no number; empty where there is none."""
    for score in NEEDED.get(stage, ()):
        given = scores.get(score) if score == "caption_scores" else [score_of(scores, score)]
        if given is None or not all(is_number(value) for value in given):
            return score
    return ""


def score_of(clip: Mapping[str, Any], score: str) -> float | None:
    """The value of a score, None where there is none that can be compared."""
    if score == "aspect":
        width, height = clip.get("width_px"), clip.get("height_px")
        return width / height if width and height else None
    value = clip.get(score)
    return float(value) if is_number(value) else None


def is_number(value: float | None) -> TypeGuard[float]:
    """Whether a score is there and finite."""
    return value is not None and math.isfinite(value)


def shown(value: float, limit: float) -> str:
    """`value` with as many digits as show on which side of `limit` it is."""
    if value == int(value):
        return f"{value:g}"
    if abs(value) < 0.01:
        return f"{value:.2g}"
    texts = (*(f"{value:.{digits}f}" for digits in range(2, 16)), repr(value))
    return next(text for text in texts if _side(float(text), limit) == _side(value, limit))


def _side(value: float, limit: float) -> int:
    return (value > limit) - (value < limit)
