"""Where weights wait for their validation, and the handle through which a training worker brings them there."""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)


class Inbox:
    """What a training worker holds of the validation. Nothing that goes wrong here reaches the training."""

    def __init__(self, every: int, validated: frozenset[int], dtype: str, mailbox: Any) -> None:
        self._every = every
        self._validated = validated
        self._dtype = dtype
        self._mailbox = mailbox
        self._sent: Any = None

    def due(self, step: int) -> bool:
        """Whether the weights after ``step`` steps are wanted. The same on every worker."""
        return step % self._every == 0 and step not in self._validated

    def submit(self, step: int, weights: dict[str, "Tensor"]) -> None:
        """Hand over the trained parameters (``transformer.*``, ``token_fuser.*``), which may change afterwards."""
        import ray

        from mimir_ray.training.validator import explain, pack

        try:
            self.settle()  # the last one arrived long ago, unless validations are due faster than weights travel
            self._sent = self._mailbox.put.remote(step, ray.put(pack(weights, self._dtype)))
        except Exception as error:
            logger.warning("step %d will not be validated: %s", step, explain(error))
            self._mailbox.note.remote(step, "failed", f"handing over the weights: {explain(error)}")

    def settle(self) -> None:
        """Wait until what was submitted has arrived: Ray forgets what a worker put when the worker ends."""
        import ray

        sent, self._sent = self._sent, None
        try:
            if sent is not None:
                ray.get(sent)
        except Exception as error:
            logger.warning("the validation cannot be reached: %s", error)


class Mailbox:
    """Holds the newest weights, and what became of those that it will not hand out."""

    def __init__(self) -> None:
        self._waiting: tuple[int, Any] | None = None
        self._seen: set[int] = set()
        self._notes: list[tuple[int, str, str]] = []

    def put(self, step: int, weights: Any) -> None:
        """Let ``weights`` wait in the place of older ones. A step that came before is left out."""
        if step in self._seen:
            return
        self._seen.add(step)
        if self._waiting is not None:
            older = self._waiting[0]
            self._seen.discard(older)  # a run that goes back to before that step may bring it again
            self.note(older, "skipped", f"step {step} came before the validator was free")
        self._waiting = step, weights

    def note(self, step: int, status: str, reason: str) -> None:
        """Remember what became of a step."""
        self._notes.append((step, status, reason))

    def take(self) -> tuple[tuple[int, Any] | None, list[tuple[int, str, str]]]:
        """What waits (step, a reference to its weights) and all notes, which are thereby gone."""
        import ray

        waiting, notes = self._waiting, self._notes
        self._waiting, self._notes = None, []
        if waiting is None:
            return None, notes
        # A copy that belongs to this process: the worker's own goes when the worker does.
        return (waiting[0], [ray.put(waiting[1])]), notes
