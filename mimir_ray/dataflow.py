"""What the Ray Data pipelines share: pools of actors, and a user's mistake on its way back from a worker.

Ray wraps what a worker raises in tracebacks of its own, and forgets what a constructor raised but for its text. So a
UserError becomes a row, which later steps pass on and `run` raises in the driver. Imports ray only when it runs.
"""

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mimir_ray.config import Config, UserError
from mimir_ray.room import Need

if TYPE_CHECKING:
    from ray.data import Dataset

logger = logging.getLogger(__name__)

Row = dict[str, Any]
"""A row of a dataset or of a table: values by column."""
Work = Callable[[Row], Row]
"""One step of a pipeline: a row in, a row out."""

_REFUSAL = "refusal"
_REMARK = b"has constructor arguments in the object store and max_restarts > 0"


class ActorPool(Config):
    """The actors of one model: how many there are, what each one reserves, and how much it takes at a time."""

    actors: int = Field(1, ge=1)
    """Copies of the model."""
    num_cpus: float = Field(0.5, ge=0)
    """An actor computes on one thread or on its GPU. Half a CPU is what it reserves, so that actors which wait for each
    other's shards fit on a machine of two cores together."""
    num_gpus: float = Field(0.0, ge=0)
    """GPUs of one actor, fractions included; 0 computes on the CPU."""
    batch: int = Field(ge=1)
    """Clips or texts in one forward pass."""

    @property
    def reserved(self) -> dict[str, Any]:
        """What `map_actors` is to reserve."""
        return {"actors": (self.actors, self.actors), "num_cpus": self.num_cpus, "num_gpus": self.num_gpus}

    def need(self, setting: str) -> Need:
        """What the pool of the section ``setting`` holds."""
        return Need(setting, self.actors, self.num_cpus, self.num_gpus)


def map_tasks(dataset: "Dataset", name: str, work: Work, *, num_cpus: float, max_retries: int) -> "Dataset":
    """Each row through `work` in a task, which is tried `max_retries` times more where its worker dies."""

    def step(row: Row) -> Row:
        return _attempt(work, row)

    step.__name__ = name
    options: Any = {"num_cpus": num_cpus, "max_retries": max_retries}
    with warnings.catch_warnings():  # 2.60 deprecates max_retries and has nothing else in its place
        warnings.simplefilter("ignore", DeprecationWarning)
        return dataset.map(step, **options)


def map_actors(
    dataset: "Dataset",
    name: str,
    load: Callable[[], Work],
    *,
    actors: tuple[int, int],
    num_cpus: float,
    num_gpus: float,
    max_restarts: int = 3,
    waiting: int | None = None,
) -> "Dataset":
    """Each row through what `load` makes, which it does once in each actor.

    Args:
        actors: fewest and most of them.
        max_restarts: of an actor. Ray's default is for ever: a row that kills its actor would be tried without end.
        waiting: rows in an actor at a time, which are lost with it; Ray's own number where None.
    """
    import ray.data

    _hear_remark()
    low, high = actors
    pool = ray.data.ActorPoolStrategy(min_size=low, max_size=high, max_tasks_in_flight_per_actor=waiting)
    with warnings.catch_warnings():  # 2.60 deprecates the last two and has nothing else in their place
        warnings.simplefilter("ignore", DeprecationWarning)
        return dataset.map(
            type(name, (_Loaded,), {}),  # Ray shows the class's name
            fn_constructor_args=(load,),
            compute=pool,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            max_restarts=max_restarts,
            max_task_retries=1,
        )


@cache
def _hear_remark() -> None:
    """Have Ray make its remark on actors that restart here, where nobody takes it for an error of the run.

    Ray Data hands every actor of a pool its work through the object store. For the first actor of a process that gets
    something so and may restart, Ray prints, as an error, that a restart fails once the argument is gone
    (ray-project/ray#53727). A pool's cannot go: the driver holds them for as long as the pool is there.
    """
    import ray

    remote: Any = ray
    with _remark_aside():
        first = remote.remote(num_cpus=0, max_restarts=1)(_First).remote(remote.put(None))
    remote.kill(first)


class _First:
    def __init__(self, argument: None) -> None:
        """Nothing is done with it."""


@contextmanager
def _remark_aside() -> Iterator[None]:
    """What Ray's C++, which knows no `sys.stderr`, prints as errors comes when this ends; the remark at level DEBUG."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            aside.seek(0)
            for line in aside.read().splitlines(keepends=True):
                if _REMARK in line:
                    logger.debug("Ray's remark on pools of actors: %s", line.decode(errors="replace").rstrip())
                else:
                    os.write(2, line)


class _Loaded:
    """What `load` makes, or why it could not."""

    def __init__(self, load: Callable[[], Work]) -> None:
        self._work: Work | None = None
        try:
            self._work = load()
        except UserError as error:
            self._refusal = str(error)

    def __call__(self, row: Row) -> Row:
        return _attempt(self._work, row) if self._work else row | {_REFUSAL: self._refusal}


def through_engine(
    dataset: "Dataset",
    name: str,
    engine: Callable[["Dataset"], "Dataset"],
    ask: Callable[[Row], Iterable[Row]],
    collector: Callable[[], Callable[[Row], Row | None]],
    *,
    num_cpus: float,
    max_retries: int,
) -> "Dataset":
    """Each row through an engine that takes rows of another kind, such as `mimir_ray.vllm`'s, and keeps no order.

    Rows stream: nothing waits for the last of them, as it would for a group-by.

    A task that dies, or whose rows are lost with a machine, is run again, and Ray delivers of the second run what it
    has not delivered of the first. So both runs must make the same rows in the same order.

    Args:
        ask: makes one or more rows of the engine's kind of a shard's row, in a task, with the shard's name in `shard`;
            the same ones each time until what `collector` makes has returned the shard.
        collector: makes, once and in the only actor that there is, what takes the engine's rows one by one and returns
            a shard's row when it has seen all that were made of it, until then None.
    """
    import ray.data

    _hear_remark()

    def asked(row: Row) -> Iterator[Row]:
        refusal = row.get(_REFUSAL)
        if not refusal:
            try:
                yield from ask(row)
                return
            except UserError as error:
                refusal = str(error)
        yield row | {_REFUSAL: refusal, "error": refusal}  # an engine lets a row with an error pass by

    asked.__name__ = f"{name}_ask"
    one = ray.data.ActorPoolStrategy(size=1)
    with warnings.catch_warnings():  # as above
        warnings.simplefilter("ignore", DeprecationWarning)
        options: Any = {"num_cpus": num_cpus, "max_retries": max_retries}
        return engine(dataset.flat_map(asked, **options)).flat_map(
            type(f"{name}_collect", (_Collecting,), {}),
            fn_constructor_args=(collector,),
            compute=one,
            num_cpus=0,  # it waits, most of the time, and must not keep a small machine's last CPU from the engine
            max_restarts=3,
            max_task_retries=1,
        )


class _Collecting:
    """What `collector` makes, past which refusals go. It sees no more of a shard that it has returned."""

    def __init__(self, collector: Callable[[], Callable[[Row], Row | None]]) -> None:
        self._collect = collector()
        self._shards: set[str] = set()

    def __call__(self, row: Row) -> list[Row]:
        if row.get(_REFUSAL):
            return [row]
        if row["shard"] in self._shards:  # a row that comes twice
            return []
        try:
            collected = self._collect(row)
        except UserError as error:
            return [row | {_REFUSAL: str(error)}]
        if collected is None:
            return []
        self._shards.add(collected["shard"])
        return [collected]


def _attempt(work: Work, row: Row) -> Row:
    if row.get(_REFUSAL):
        return row
    try:
        return work(row)
    except UserError as error:
        return row | {_REFUSAL: str(error)}


def run(dataset: "Dataset") -> Iterator[Row]:
    """Execute a plan of these steps; yields its rows as they are done. Raises the UserError of a worker."""
    for row in dataset.iter_rows():
        if row.get(_REFUSAL):  # None in a row that only shares a block with a refusal
            raise UserError(row[_REFUSAL])
        yield row


def run_shards(
    dataset: "Dataset", what: str, before: int, total: int, progress: Callable[[int, int], None] | None
) -> Iterator[Row]:
    """`run` where each row is a shard, and `before` of the `total` shards are done already.

    `progress` gets the shards done and their number; without it the log says how fast it goes and what is left.
    """
    from mimir_ray.console import time_left

    began_s = time.monotonic()
    for done, row in enumerate(run(dataset), 1):
        if progress is not None:
            progress(before + done, total)
        else:
            seconds = time.monotonic() - began_s
            rate, left_s = done / max(seconds, 1e-9), seconds / done * (total - before - done)
            line = "%s: %d/%d shards, %.2f shards/s, %s; %s"
            logger.info(line, what, before + done, total, rate, time_left(left_s), row["shard"])
        yield row
