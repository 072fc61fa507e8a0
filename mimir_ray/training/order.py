"""The order of samples: a function of (seed, epoch) alone, whatever the number of workers.

Shards are permuted, and the rows of ``window`` neighbouring shards are mixed with each other. So a worker reads few
shards at a time, and a run that resumes in the middle of an epoch reads none of those that came before.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part; equal in every process and on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class Position:
    """A sample: row ``row`` among the usable samples of a shard."""

    shard: str
    row: int


@dataclass
class SampleOrder:
    """An endless sequence of samples, epoch after epoch; each epoch shows every sample once.

    Args:
        counts: usable samples of each shard; its order takes no part in the result.
        window: shards whose rows are mixed with each other.
    """

    counts: dict[str, int]
    seed: int
    window: int
    _shards: tuple[int, list[list[str]], list[int]] | None = field(default=None, repr=False)
    _rows: tuple[tuple[int, int], npt.NDArray[np.int64], list[str], list[int]] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Samples of an epoch."""
        return sum(self.counts.values())

    def __getitem__(self, index: int) -> Position:
        """Sample ``index`` counted from the start of training: ``step * batch_size + place in the batch``."""
        epoch, offset = divmod(index, len(self))
        windows, starts = self._windows(epoch)
        number = bisect_right(starts, offset) - 1
        permutation, shards, firsts = self._window(epoch, number, windows[number])
        place = int(permutation[offset - starts[number]])
        shard = bisect_right(firsts, place) - 1
        return Position(shards[shard], place - firsts[shard])

    def _windows(self, epoch: int) -> tuple[list[list[str]], list[int]]:
        """The shards of each window of an epoch, and the place in the epoch at which each window starts."""
        if self._shards is None or self._shards[0] != epoch:
            names = sorted(name for name, count in self.counts.items() if count)
            np.random.default_rng(seed_of(self.seed, epoch)).shuffle(names)
            windows = [names[i : i + self.window] for i in range(0, len(names), self.window)]
            self._shards = epoch, windows, _starts([sum(self.counts[name] for name in names) for names in windows])
        return self._shards[1], self._shards[2]

    def _window(self, epoch: int, number: int, shards: list[str]) -> tuple[npt.NDArray[np.int64], list[str], list[int]]:
        if self._rows is None or self._rows[0] != (epoch, number):
            counts = [self.counts[name] for name in shards]
            permutation = np.random.default_rng(seed_of(self.seed, epoch, number)).permutation(sum(counts))
            self._rows = (epoch, number), permutation, shards, _starts(counts)
        return self._rows[1], self._rows[2], self._rows[3]


def _starts(counts: Sequence[int]) -> list[int]:
    return [0, *accumulate(counts)][:-1]
