"""The one place where thresholds of appendix A meet scores: pure, last, and cheap to run again."""

from dataclasses import dataclass

from mimir_ray.curation.config import CurationConfig
from mimir_ray.curation.metrics import Scores


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """What the container says about a clip; sizes as displayed."""

    frames: int
    duration_s: float
    width_px: int
    height_px: int


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """A rule that a clip does not meet: the rule's name, and the value and the limit in words."""

    rule: str
    reason: str


def shortfalls(clip: ClipFacts, scores: Scores, config: CurationConfig) -> list[Shortfall]:
    """Every rule that the clip falls short of, in the paper's order; none means that it is kept."""
    basic, quality = config.basic, config.quality
    aspect = clip.width_px / clip.height_px
    size = f"{clip.width_px}x{clip.height_px}"
    checks = [
        (
            "frames",
            clip.frames < basic.min_frames,
            f"has {clip.frames} frames, at least {basic.min_frames} are needed",
        ),
        (
            "duration",
            clip.duration_s < basic.min_duration_s,
            f"lasts {_below(clip.duration_s, basic.min_duration_s)} s, at least {basic.min_duration_s:g} s are needed",
        ),
        (
            "aspect",
            aspect < basic.min_aspect,
            f"is too tall: {size} is {_below(aspect, basic.min_aspect)} wide to 1 high, "
            f"at least {basic.min_aspect:g} is needed",
        ),
        (
            "aspect",
            aspect > basic.max_aspect,
            f"is too wide: {size} is {_above(aspect, basic.max_aspect)} wide to 1 high, "
            f"at most {basic.max_aspect:g} is allowed",
        ),
        (
            "motion",
            scores.motion <= basic.motion_epsilon,
            f"stands still: motion {scores.motion:.2g} of the diagonal, more than {basic.motion_epsilon:g} is needed",
        ),
        (
            "black_area",
            scores.black_area > quality.max_black_area,
            f"is mostly black: {_above(scores.black_area, quality.max_black_area)} of its area, "
            f"at most {quality.max_black_area:g} is allowed",
        ),
        (
            "brightness",
            scores.brightness < quality.min_brightness,
            f"is too dark: brightness {_below(scores.brightness, quality.min_brightness)}, "
            f"at least {quality.min_brightness:g} is needed",
        ),
        (
            "black_frame_rate",
            scores.black_frame_rate > quality.max_black_frame_rate,
            f"has too many black frames: {_above(scores.black_frame_rate, quality.max_black_frame_rate)} of them, "
            f"at most {quality.max_black_frame_rate:g} is allowed",
        ),
    ]
    return [Shortfall(rule=rule, reason=reason) for rule, broken, reason in checks if broken]


def _below(value: float, limit: float) -> str:
    """`value` with as many digits as show that it is below `limit`."""
    return next(text for text in _texts(value) if float(text) < limit or value >= limit)


def _above(value: float, limit: float) -> str:
    """`value` with as many digits as show that it is above `limit`."""
    return next(text for text in _texts(value) if float(text) > limit or value <= limit)


def _texts(value: float) -> list[str]:
    return [*(f"{value:.{digits}f}" for digits in range(2, 16)), repr(value)]
