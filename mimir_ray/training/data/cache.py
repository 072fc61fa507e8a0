"""A bounded memory of what is slow to make, for several threads."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Cache(Generic[T]):
    """What was used last, up to ``limit`` in the unit of ``weigh``; the rest is made again when it is asked for.

    What weighs None, or more than the limit, is not kept and drives nothing else out.

    Threads that ask for the same thing at the same time wait for the one that makes it. An error is raised for each of
    them, and forgotten.
    """

    def __init__(self, limit: int, weigh: Callable[[T], int | None]) -> None:
        self._limit = limit
        self._weigh = weigh
        self._held: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._weight = 0
        self._coming: dict[Hashable, Future[T]] = {}
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` made for this key, now or before."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][0]
            coming = self._coming.get(key)
            mine = coming is None
            if coming is None:
                coming = self._coming[key] = Future()
        if mine:
            try:
                made = make()
            except BaseException as error:
                with self._lock:
                    del self._coming[key]
                coming.set_exception(error)
                raise
            self._keep(key, made)
            coming.set_result(made)
        return coming.result()

    def _keep(self, key: Hashable, made: T) -> None:
        weight = self._weigh(made)
        with self._lock:
            del self._coming[key]
            if weight is None or weight > self._limit:
                return
            self._held[key] = made, weight
            self._weight += weight
            while self._weight > self._limit:
                _, (_, dropped) = self._held.popitem(last=False)
                self._weight -= dropped
