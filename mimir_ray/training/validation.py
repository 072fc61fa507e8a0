"""Validation off the training path: the driver's side of it, and the handle that a training worker holds.

    with Validation(model, training, config, generation, out, scorer=scorer, on_result=show) as validation:
        job = Job(..., inbox=validation.inbox)          # to the training workers
        trainer.fit()                                   # at its end the last validation is waited for

    if inbox.due(step):                                 # the same answer on every worker
        inbox.submit(step, weights)                     # one process alone; returns when they are copied
    inbox.settle()                                      # before that process ends

Weights go worker -> mailbox -> validator. The mailbox holds one step, the newest; the driver takes it out when the
validator is free. Training pays for gathering the weights and for one copy of them, in the model's number format, into
its node's object store. At most three such copies exist: one that is worked on, one that waits, one that arrives.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mimir_ray.config import UserError
from mimir_ray.generation.config import GenerationConfig
from mimir_ray.model.config import ModelConfig
from mimir_ray.storage import absolute, exists, join, read_bytes, write_bytes
from mimir_ray.training.config import TrainingConfig, ValidationConfig
from mimir_ray.training.mailbox import Inbox, Mailbox

if TYPE_CHECKING:
    from mimir_ray.training.validator import Sample, Scorer

logger = logging.getLogger(__name__)

POLL_S = 0.3

StepRow = dict[str, Any]
"""A line of validation.jsonl: ``step``, ``status`` (ok, failed, skipped), ``score`` (mean over the prompts that have
one, else null), ``prompts``, ``failed`` (of them), ``seconds``, ``reason``."""


@dataclass(frozen=True)
class Result:
    """A step of which everything is known."""

    row: StepRow
    samples: Sequence["Sample"]
    """One for each prompt, where the validation got that far."""


def read_validations(out: str) -> dict[int, StepRow]:
    """What is known of each step under ``out``, in order of steps."""
    uri = join(out, "validation.jsonl")
    lines = read_bytes(uri).splitlines() if exists(uri) else []
    rows = [json.loads(line) for line in lines]
    return {row["step"]: row for row in sorted(rows, key=lambda row: row["step"])}


def require_room(config: ValidationConfig, generation: GenerationConfig, *, cpus: float, gpus: float) -> None:
    """Raise UserError where the validator cannot have what it asks for: Ray would wait for ever.

    Args:
        cpus, gpus: what the cluster has beside the training workers.
    """
    for kind, need, have in (("cpus", config.num_cpus, cpus), ("gpus", config.num_gpus, gpus)):
        if config.every and need > have:
            raise UserError(
                f"training.validation.num_{kind}={need:g} and the training workers leave {have:g} of this Ray "
                f"cluster's {kind.upper()[:-1]}s; lower it, take fewer training.workers, or set "
                "training.validation.every=0"
            )
    if config.every and generation.runtime.device == "cuda" and not config.num_gpus:
        raise UserError(
            "generation.runtime.device=cuda and training.validation.num_gpus=0: validation would see no GPU; set "
            "training.validation.num_gpus=1, or generation.runtime.device=auto"
        )


class Validation:
    """The actors, the thread that passes weights between them, and the rows of validation.jsonl.

    A step that has an ``ok`` row under ``out`` is not validated again.

    Args:
        generation: size, steps, guidance and runtime of the videos; the number format is ``model.dtype``.
        scorer: None leaves the videos without scores.
        on_result: called in a thread of this process with every step that is settled: done, failed or skipped.
    """

    def __init__(
        self,
        model: ModelConfig,
        training: TrainingConfig,
        config: ValidationConfig,
        generation: GenerationConfig,
        out: str,
        *,
        scorer: "Scorer | None" = None,
        on_result: Callable[[Result], None] | None = None,
    ) -> None:
        import ray

        self._out = absolute(out)
        self._wait_s = config.wait_s
        self._on_result = on_result
        self._rows = read_validations(self._out)
        remote: Any = ray.remote
        self._mailbox = remote(num_cpus=0, max_restarts=-1)(Mailbox).remote()
        self._start = partial(_start, model, training, config, generation, self._out, scorer)
        self._validator = self._start()
        validated = frozenset(step for step, row in self._rows.items() if row["status"] == "ok")
        # Adapters are few, and are merged in float32.
        dtype = "float32" if training.train == "lora" else model.dtype
        self.inbox = Inbox(config.every, validated, dtype, self._mailbox)
        self._ending = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="validation", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is left, up to ``wait_s``; not at all after an exception."""
        import ray

        self._deadline = time.monotonic() + (self._wait_s if kind is None else 0.0)
        self._ending.set()
        try:
            self._thread.join()
        finally:
            for actor in (self._validator, self._mailbox):
                ray.kill(actor)

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._ending.wait(POLL_S)
            while (taken := self._take()) is not None:
                self._validate(*taken)

    def _take(self) -> tuple[int, Any] | None:
        import ray

        try:
            taken: tuple[int, Any] | None
            taken, notes = ray.get(self._mailbox.take.remote())
        except Exception as error:
            logger.warning("the validation's mailbox is out of reach: %s", error)
            return None
        for step, status, reason in notes:
            self._settle(Result(_row(step, status, reason=reason), []))
        return taken

    def _validate(self, step: int, weights: list[Any]) -> None:
        import ray

        from mimir_ray.training.validator import explain

        began = time.monotonic()
        try:
            done = self._validator.validate.remote(step, weights.pop())
            while not ray.wait([done], timeout=POLL_S)[0]:
                if time.monotonic() > self._deadline:
                    raise UserError(
                        "the training ended before this validation did; raise training.validation.wait_s "
                        f"(now {self._wait_s:g}) to wait longer"
                    )
            samples: list[Sample] = ray.get(done)
        except Exception as error:
            if isinstance(error, ray.exceptions.RayActorError):
                self._validator = self._start()  # for the next step: this one may be what it died of
            self._settle(Result(_row(step, "failed", reason=explain(error), began=began), []))
            return
        scores = [sample.score for sample in samples if sample.score is not None]
        failed = [sample.reason for sample in samples if sample.reason]
        row = _row(
            step,
            "ok" if any(sample.path for sample in samples) else "failed",
            score=sum(scores) / len(scores) if scores else None,
            prompts=len(samples),
            failed=len(failed),
            reason=failed[0] if failed else "",
            began=began,
        )
        self._settle(Result(row, samples))

    def _settle(self, result: Result) -> None:
        """Write a step's row, in the place of an older one, and tell of it."""
        row = result.row
        if row["status"] == "ok":
            score = "" if row["score"] is None else f"  score {row['score']:.3f}"
            logger.info("validated step %d%s  %d videos  %.0f s", row["step"], score, row["prompts"], row["seconds"])
        elif row["status"] == "skipped":
            logger.info("step %d was not validated: %s", row["step"], row["reason"])
        if row["status"] == "failed" or row["failed"]:
            logger.warning("validation of step %d: %s", row["step"], row["reason"])
        try:
            self._rows = dict(sorted((self._rows | {row["step"]: row}).items()))
            lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in self._rows.values())
            write_bytes(join(self._out, "validation.jsonl"), "".join(lines).encode())
            if self._on_result is not None:
                self._on_result(result)
        except Exception as error:
            logger.warning("the validation of step %d could not be recorded", row["step"], exc_info=error)


def _start(*arguments: Any) -> Any:
    """The actor of a ``Validator`` with these arguments; calls wait until it runs."""
    import ray

    from mimir_ray.training.validator import Validator

    config: ValidationConfig = arguments[2]
    remote: Any = ray.remote
    return remote(num_cpus=config.num_cpus, num_gpus=config.num_gpus)(Validator).remote(*arguments)


def _row(
    step: int,
    status: str,
    *,
    score: float | None = None,
    prompts: int = 0,
    failed: int = 0,
    reason: str = "",
    began: float | None = None,
) -> StepRow:
    return {
        "step": step,
        "status": status,
        "score": score,
        "prompts": prompts,
        "failed": failed,
        "seconds": round(time.monotonic() - began, 3) if began is not None else 0.0,
        "reason": reason,
    }
