"""Batches: rows of the tables and every random draw of a step, a function of (seed, step, place in the batch) alone.

So a restarted run sees what an uninterrupted one sees, and the number of workers changes who computes a sample, not
the sample. All draws are made on the CPU, so the device does not change them either.

Shapes: ``B T C h w`` latents, ``N`` text tokens.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any, Self

import torch
from torch import Tensor

from mimir_ray.model.latents import draw_latents, padding
from mimir_ray.model.tokens import TextTokens
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.order import BatchOrder, seed_of
from mimir_ray.training.data.samples import Sample, TrainingData
from mimir_ray.training.data.shards import OpenShard, Reader


@dataclass(frozen=True)
class Share:
    """How a batch is cut: each worker's share has as many samples, in as many equal parts for one backward pass each.

    A batch that cannot be cut evenly is filled up with copies of its last sample that weigh nothing.
    """

    samples: int
    parts: int
    weight: float
    """The weight of a sample in the mean over all workers, filled up as they are."""

    @classmethod
    def of(cls, config: TrainingConfig, world: int) -> Self:
        """A part has at most as many samples as it has with all ``workers``, so fewer of them make more parts."""
        parts = config.accumulate * -(-config.workers // world)
        samples = parts * -(-config.batch_size // (world * parts))
        return cls(samples, parts, world * samples / config.batch_size)


@dataclass(frozen=True)
class Batch:
    """What a worker computes in a step."""

    clip_ids: tuple[str, ...]
    latents: Tensor
    """B T C h w float32: a draw from the posterior times the VAE's scaling factor; T is whole temporal patches."""
    noise: Tensor
    timesteps: Tensor
    """B int64."""
    keep: Tensor
    """B float32: 0 where the text is dropped."""
    weight: Tensor
    """B float32 of the loss: 1 but where a batch was filled up."""
    tokens: TextTokens

    def to(self, device: torch.device | str) -> Self:
        return type(self)(
            self.clip_ids,
            self.latents.to(device),
            self.noise.to(device),
            self.timesteps.to(device),
            self.keep.to(device),
            self.weight.to(device),
            self.tokens.to(device),
        )

    def split(self, parts: int) -> list[Self]:
        """Equal parts, in order."""
        if parts == 1:
            return [self]
        size = len(self.clip_ids) // parts
        slices = [slice(start, start + size) for start in range(0, len(self.clip_ids), size)]
        return [
            type(self)(
                self.clip_ids[rows],
                self.latents[rows],
                self.noise[rows],
                self.timesteps[rows],
                self.keep[rows],
                self.weight[rows],
                self.tokens.select(rows),
            )
            for rows in slices
        ]


class Batches:
    """The batches of one worker.

    Args:
        scaling_factor: of the VAE.
        timesteps: length of the noise schedule.
        text_length: number N of text tokens that the fuser reads.
        temporal_patch: latent frames that the transformer reads as one.
        rank, world: this worker takes the samples of its ``Share`` of each batch, in order.
    """

    def __init__(
        self,
        data: TrainingData,
        config: TrainingConfig,
        *,
        scaling_factor: float,
        timesteps: int,
        text_length: int,
        temporal_patch: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._config = config
        self._scaling_factor = scaling_factor
        self._timesteps = timesteps
        self._text_length = text_length
        self._temporal_patch = temporal_patch
        self._order = BatchOrder(data.buckets, config.seed, config.shuffle_shards, config.batch_size)
        self._reader = Reader(data, config)
        share = Share.of(config, world)
        places = range(rank * share.samples, (rank + 1) * share.samples)
        self._places = [min(place, config.batch_size - 1) for place in places]
        self._weight = torch.tensor([share.weight * (place < config.batch_size) for place in places])

    def clip_ids(self, step: int) -> tuple[str, ...]:
        """The clips of this worker's share of step ``step`` (counted from 0)."""
        return tuple(sample.clip_id for _, sample in self._samples(step))

    def batch(self, step: int) -> Batch:
        """This worker's share of step ``step`` (counted from 0); its samples have latents of one shape.

        Raises:
            UserError: a shard cannot be read, or its tokens do not fit the model.
        """
        samples = self._samples(step)
        frames, *rest = samples[0][1].shape
        shape = (frames + padding(frames, self._temporal_patch), *rest)
        # The two large tensors are filled in place: at 480p a copy more is a fifth of the time that a sample takes.
        latents, noise = torch.empty(len(samples), *shape), torch.empty(len(samples), *shape)
        rows = [
            self._draw(step, place, *found, latents[row], noise[row])
            for row, (place, found) in enumerate(zip(self._places, samples, strict=True))
        ]
        timesteps, keep, t5, llm = zip(*rows, strict=True)
        t5_tokens = torch.stack(t5)
        if llm[0] is None:
            tokens = TextTokens.from_t5(t5_tokens)
        else:
            queries, answers, instructions = zip(*llm, strict=True)
            tokens = TextTokens.collate(t5_tokens, queries, answers, torch.stack(instructions), self._text_length)
        return Batch(
            clip_ids=tuple(sample.clip_id for _, sample in samples),
            latents=latents,
            noise=noise,
            timesteps=torch.tensor(timesteps),
            keep=torch.tensor(keep),
            weight=self._weight,
            tokens=tokens,
        )

    def ahead(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps ``first`` to ``last - 1``; the next ones are made while the caller computes."""
        pool = ThreadPoolExecutor(self._config.read_ahead, "batches")
        steps = iter(range(first, last))
        coming = deque(pool.submit(self.batch, step) for step in islice(steps, self._config.read_ahead))
        try:
            while coming:
                ready = coming.popleft().result()
                coming.extend(pool.submit(self.batch, step) for step in islice(steps, 1))
                yield ready
        finally:
            pool.shutdown(cancel_futures=True)

    def _samples(self, step: int) -> list[tuple[OpenShard, Sample]]:
        shape, positions = self._order.batch(step, self._places)
        shards = [self._reader.shard(position.shard) for position in positions]
        return [(shard, shard.samples[shape][position.row]) for shard, position in zip(shards, positions, strict=True)]

    def _draw(
        self, step: int, place: int, shard: OpenShard, sample: Sample, latents: Tensor, noise: Tensor
    ) -> tuple[Any, ...]:
        """Timestep, keep, T5 and LLM tokens of a sample; its latents and noise are written to those given."""
        generator = torch.Generator().manual_seed(seed_of(self._config.seed, "draw", step, place))
        which_caption, which_answer, dropout = torch.rand(3, generator=generator).tolist()
        timestep = int(torch.randint(0, self._timesteps, (), generator=generator))
        drawn = draw_latents(shard.moments(sample)[None], self._scaling_factor, generator)[0]
        before = len(latents) - len(drawn)
        latents[before:] = drawn
        latents[:before] = drawn[:1]
        torch.randn(noise.shape, generator=generator, out=noise)
        caption = sample.captions[_choose([caption.weight for caption in sample.captions], which_caption)]
        keep = float(dropout >= self._config.text_dropout)
        return timestep, keep, shard.t5(caption, self._text_length), shard.llm(caption, which_answer)


def _choose(weights: list[float], place: float) -> int:
    """The index at ``place`` in [0, 1) of the cumulated weights."""
    sums = list(accumulate(weights))
    return min(bisect_right(sums, place * sums[-1]), len(weights) - 1)
