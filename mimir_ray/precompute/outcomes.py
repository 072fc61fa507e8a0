"""What becomes of a row that could not be encoded, and which rows another run tries again.

What is no property of the row, such as a video that is not there for now, is tried again by every run; its reason says
so. What is one, such as damaged frames, stays until that is asked for.
"""

from typing import Literal

from mimir_ray.config import UserError
from mimir_ray.dataflow import Row

Retry = Literal["nothing", "passing", "quarantined", "everything"]
"""Which rows are tried again: those that failed for a passing reason, all that are quarantined, or those that are ok
and rejected too."""

PASSING = "tried again by the next run: "
"""How the reason of a row begins that failed for a passing reason."""


class Rejected(Exception):
    """The row falls short of a rule; the message is the reason."""


class Away(Exception):
    """What the row is made of cannot be had for now; the message is the reason."""


def failed(error: Exception) -> Row:
    """Status and reason of a row: a message for people as it is, any other exception with its type."""
    import torch

    from mimir_ray.video import VideoError

    told = isinstance(error, Rejected | Away | VideoError | UserError)
    reason = str(error) if told else f"{type(error).__name__}: {error}"
    passing = isinstance(error, Away | OSError | torch.AcceleratorError)
    return {
        "status": "rejected" if isinstance(error, Rejected) else "quarantined",
        "reason": (PASSING * passing + reason.strip())[:500] or type(error).__name__,
    }


def stays(row: Row, retry: Retry) -> bool:
    """Whether a row, by its status and reason, is left as it is."""
    match retry:
        case "nothing":
            return True
        case "passing":
            return not row["reason"].startswith(PASSING)
        case "quarantined":
            return bool(row["status"] != "quarantined")
        case "everything":
            return False
