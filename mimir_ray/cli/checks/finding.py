"""One line of the doctor's report."""

from typing import Literal

from mimir_ray.config import Config


class Finding(Config):
    """What was looked at, how it stands, and what to do about it."""

    subject: str
    level: Literal["ok", "warning", "failure"]
    """`warning`: works, with less than it could; `failure`: mimir_ray cannot work so."""
    detail: str
    remedy: str = ""


def ok(subject: str, detail: str) -> Finding:
    """A finding that needs no action."""
    return Finding(subject=subject, level="ok", detail=detail)


def warning(subject: str, detail: str, remedy: str) -> Finding:
    """Something that works with less than it could."""
    return Finding(subject=subject, level="warning", detail=detail, remedy=remedy)


def failure(subject: str, detail: str, remedy: str) -> Finding:
    """Something mimir_ray cannot work without."""
    return Finding(subject=subject, level="failure", detail=detail, remedy=remedy)
