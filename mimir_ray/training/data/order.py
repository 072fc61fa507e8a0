"""The order of samples: a function of the seed and of a step's number alone, whatever the number of workers.

Every step takes its batch from one bucket, the samples of equal shape. Each bucket has an endless order of its own:
shards are permuted, and the rows of ``window`` neighbouring shards are mixed with each other. So a worker reads few
shards at a time, and a run that resumes in the middle of an epoch reads none of those that came before.

Any step can be asked for, by several threads at once; what an epoch or a window costs is paid once for all its steps.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

Shape = tuple[int, int, int, int]
"""T C h w of a sample's latents."""


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part; equal in every process and on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class Position:
    """A sample: row ``row`` among the usable samples of its shape in a shard."""

    shard: str
    row: int


class SampleOrder:
    """An endless sequence of samples, epoch after epoch; each epoch shows every sample once.

    Args:
        counts: usable samples of each shard; its order takes no part in the result.
        window: shards whose rows are mixed with each other.
    """

    def __init__(self, counts: Mapping[str, int], seed: int, window: int) -> None:
        self._counts = {name: counts[name] for name in sorted(counts) if counts[name]}
        self._samples = sum(self._counts.values())
        self._seed = seed
        self._width = window
        self._windows = lru_cache(2)(self._shuffle_shards)
        self._rows = lru_cache(8)(self._shuffle_rows)

    def __len__(self) -> int:
        """Samples of an epoch."""
        return self._samples

    def __getitem__(self, index: int) -> Position:
        """Sample ``index``, counted from the start of training."""
        epoch, offset = divmod(index, self._samples)
        windows, starts = self._windows(epoch)
        number = bisect_right(starts, offset) - 1
        permutation, firsts = self._rows(epoch, number)
        place = int(permutation[offset - starts[number]])
        shard = bisect_right(firsts, place) - 1
        return Position(windows[number][shard], place - firsts[shard])

    def _shuffle_shards(self, epoch: int) -> tuple[list[list[str]], list[int]]:
        """The shards of each window of an epoch, and the place in the epoch at which each window starts."""
        names = list(self._counts)
        np.random.default_rng(seed_of(self._seed, epoch)).shuffle(names)
        windows = [names[i : i + self._width] for i in range(0, len(names), self._width)]
        return windows, _starts([sum(self._counts[name] for name in window) for window in windows])

    def _shuffle_rows(self, epoch: int, number: int) -> tuple[npt.NDArray[np.int64], list[int]]:
        """The rows of a window in the order in which they come, and the first row of each of its shards."""
        counts = [self._counts[name] for name in self._windows(epoch)[0][number]]
        return np.random.default_rng(seed_of(self._seed, epoch, number)).permutation(sum(counts)), _starts(counts)


class BatchOrder:
    """Which samples each step takes, all of one bucket.

    An epoch gives each bucket as many steps as it has batches of samples, in a seeded order. What is left of a batch is
    carried to the next epoch, so in the long run every sample is shown equally often; a bucket of fewer samples than a
    batch gets a step every few epochs, in which its sequence wraps round.

    With one bucket, step s takes samples ``s * batch_size`` and the following of its ``SampleOrder``.
    """

    def __init__(self, buckets: Mapping[Shape, Mapping[str, int]], seed: int, window: int, batch_size: int) -> None:
        self._orders = {shape: SampleOrder(buckets[shape], seed, window) for shape in sorted(buckets)}
        self._seed = seed
        self._batch_size = batch_size
        self._turns = lru_cache(2)(self._shuffle_turns)

    def batch(self, step: int, places: Sequence[int]) -> tuple[Shape, list[Position]]:
        """The bucket of a step (counted from 0), and the samples at those places of its batch."""
        later = (step + len(self._orders)) * self._batch_size // sum(map(len, self._orders.values())) + 2
        epoch = bisect_right(range(later), step, key=self._steps_before) - 1
        shape, turn = self._turns(epoch)[step - self._steps_before(epoch)]
        order = self._orders[shape]
        return shape, [order[turn * self._batch_size + place] for place in places]

    def _steps_before(self, epoch: int) -> int:
        return sum(self._turns_before(shape, epoch) for shape in self._orders)

    def _turns_before(self, shape: Shape, epoch: int) -> int:
        return epoch * len(self._orders[shape]) // self._batch_size

    def _shuffle_turns(self, epoch: int) -> list[tuple[Shape, int]]:
        """The bucket of each step of an epoch, and how many steps that bucket had before."""
        turns = [
            (shape, turn)
            for shape in self._orders
            for turn in range(self._turns_before(shape, epoch), self._turns_before(shape, epoch + 1))
        ]
        order = np.random.default_rng(seed_of(self._seed, "buckets", epoch)).permutation(len(turns))
        coming = {shape: iter([turn for turn in turns if turn[0] == shape]) for shape in self._orders}
        return [next(coming[turns[place][0]]) for place in order]


def _starts(counts: Sequence[int]) -> list[int]:
    return [0, *accumulate(counts)][:-1]
