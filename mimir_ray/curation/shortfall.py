"""How a rule says that it is not met."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """A rule that a clip or a caption does not meet."""

    rule: str
    reason: str
    """The value and the limit in words."""
    value: float | None = None
    """None where the rule is no limit on a number."""
    limit: float | None = None


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
