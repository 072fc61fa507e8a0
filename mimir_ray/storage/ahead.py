"""Work on many small files at once, in order, where each of them is waited for."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

READERS = 16
"""Files that are read together where few bytes of each are wanted: on an object store one waits for each of them."""

In = TypeVar("In")
Out = TypeVar("Out")


def ahead(work: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """``work`` of each item, in their order, done by ``READERS`` threads; no more results than that wait to be taken.

    Raises what ``work`` raises, at its item's turn.
    """
    with ThreadPoolExecutor(READERS, "ahead") as readers:
        begun: deque[Future[Out]] = deque()
        try:
            for item in items:
                begun.append(readers.submit(work, item))
                if len(begun) == READERS:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()
