"""What workers and validations tell the driver while a training runs."""

import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from mimir_ray.training.reporting.metrics import MetricsRow
from mimir_ray.training.reporting.validation import Validation

logger = logging.getLogger(__name__)

POLL_S = 0.3


class Feed:
    """A queue that any process of the cluster may put rows of metrics and validations into, and a thread that reads it.

    The end of the block waits until everything that was put has been told.

    Args:
        on_row, on_validation: called in that thread, in this order.
    """

    def __init__(
        self, on_row: Sequence[Callable[[MetricsRow], None]], on_validation: Sequence[Callable[[Validation], None]]
    ) -> None:
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        cluster: Any = ray
        here = NodeAffinitySchedulingStrategy(cluster.get_runtime_context().get_node_id(), soft=False)
        # On this machine: no other one's end is its own.
        self.queue: Any = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self._on_row = on_row
        self._on_validation = on_validation
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="training-feed", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        self.queue.shutdown(force=True)

    def _run(self) -> None:
        last = False
        while not last:
            last = self._ending.wait(POLL_S)
            for _ in range(self.queue.qsize()):
                entry = self.queue.get_nowait()
                for call in self._on_validation if isinstance(entry, Validation) else self._on_row:
                    try:
                        call(entry)
                    except Exception as error:  # the training, and what else is told, goes on
                        logger.warning("what a training told could not be shown", exc_info=error)
