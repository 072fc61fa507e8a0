"""Batches: rows of the tables and every random draw of a step, a function of (seed, step, place in the batch) alone.

So a restarted run sees what an uninterrupted one sees, and the number of workers changes who computes a sample, not
the sample. All draws are made on the CPU, so the device does not change them either.

Shapes: ``B T C h w`` latents, ``N`` text tokens, ``L`` LLM tokens, ``E`` width of the LLM.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

import pyarrow as pa
import torch
from torch import Tensor

from mimir_ray.config import UserError
from mimir_ray.model.latents import draw_latents
from mimir_ray.model.tokens import TextTokens
from mimir_ray.records import unpack_array
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.order import SampleOrder, seed_of
from mimir_ray.training.tables import Caption, Sample, TrainingData, join_samples, read_shard


@dataclass(frozen=True)
class Batch:
    """What a worker computes in a step."""

    clip_ids: tuple[str, ...]
    latents: Tensor
    """B T C h w float32: a draw from the posterior times the VAE's scaling factor."""
    noise: Tensor
    timesteps: Tensor
    """B int64."""
    keep: Tensor
    """B float32: 0 where the text is dropped."""
    tokens: TextTokens

    def to(self, device: torch.device | str) -> Self:
        return type(self)(
            self.clip_ids,
            self.latents.to(device),
            self.noise.to(device),
            self.timesteps.to(device),
            self.keep.to(device),
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
        rank, world: this worker takes samples ``rank * B // world`` to ``(rank + 1) * B // world`` of each batch.
    """

    def __init__(
        self,
        data: TrainingData,
        config: TrainingConfig,
        *,
        scaling_factor: float,
        timesteps: int,
        text_length: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._config = config
        self._scaling_factor = scaling_factor
        self._timesteps = timesteps
        self._text_length = text_length
        self._order = SampleOrder(data.counts, config.seed, config.shuffle_shards)
        self._shards = _ShardCache(data, config)
        share = config.batch_size // world
        self._places = range(rank * share, (rank + 1) * share)

    def clip_ids(self, step: int) -> tuple[str, ...]:
        """The clips of this worker's share of step ``step`` (counted from 0)."""
        return tuple(self._sample(step, place)[1].clip_id for place in self._places)

    def batch(self, step: int) -> Batch:
        """This worker's share of step ``step`` (counted from 0).

        Raises:
            UserError: a shard cannot be read, or its tokens do not fit the model.
        """
        rows = [self._draw(step, place) for place in self._places]
        clip_ids, latents, noise, timesteps, keep, t5, llm = zip(*rows, strict=True)
        t5_tokens = torch.stack(t5)
        if llm[0] is None:
            tokens = TextTokens.from_t5(t5_tokens)
        else:
            queries, answers, instructions = zip(*llm, strict=True)
            tokens = TextTokens.collate(t5_tokens, queries, answers, torch.stack(instructions), self._text_length)
        return Batch(
            clip_ids=tuple(clip_ids),
            latents=torch.stack(latents),
            noise=torch.stack(noise),
            timesteps=torch.tensor(timesteps),
            keep=torch.tensor(keep),
            tokens=tokens,
        )

    def ahead(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps ``first`` to ``last - 1``; the next one is read while the caller computes."""
        with ThreadPoolExecutor(1, "batches") as pool:
            coming = pool.submit(self.batch, first) if first < last else None
            for step in range(first, last):
                assert coming is not None
                ready = coming.result()
                coming = pool.submit(self.batch, step + 1) if step + 1 < last else None
                yield ready

    def _sample(self, step: int, place: int) -> tuple["_Shard", Sample]:
        position = self._order[step * self._config.batch_size + place]
        shard = self._shards[position.shard]
        return shard, shard.samples[position.row]

    def _draw(self, step: int, place: int) -> tuple[Any, ...]:
        shard, sample = self._sample(step, place)
        generator = torch.Generator().manual_seed(seed_of(self._config.seed, "draw", step, place))
        which_caption, which_answer, dropout = torch.rand(3, generator=generator).tolist()
        timestep = int(torch.randint(0, self._timesteps, (), generator=generator))
        latents = draw_latents(shard.moments(sample)[None], self._scaling_factor, generator)[0]
        noise = torch.randn(latents.shape, generator=generator)
        caption = sample.captions[_choose([caption.weight for caption in sample.captions], which_caption)]
        keep = float(dropout >= self._config.text_dropout)
        t5 = shard.t5(caption, self._text_length)
        return sample.clip_id, latents, noise, timestep, keep, t5, shard.llm(caption, which_answer)


class _Shard:
    """The columns of one shard of every table, in memory as Arrow buffers."""

    def __init__(self, data: TrainingData, config: TrainingConfig, name: str) -> None:
        def read(table: str, *columns: str) -> pa.Table:
            return read_shard(data.table(table), name, ["clip_id", "status", *columns]).combine_chunks()

        self._latents = read("latents", "moments", "shape", "dtype")
        self._t5 = read("t5_tokens", "kind", "text", "states", "length", "width", "dtype")
        self._llm: pa.Table | None = None
        if data.decoder:
            parts = ("query_states", "query_length", "answers", "instruction_states", "width", "dtype")
            self._llm = read("llm_tokens", "kind", "text", *parts)
        self.samples = join_samples(self._latents, self._t5, self._llm, config.caption_weights)
        if len(self.samples) != data.counts[name]:
            raise UserError(
                f"shard {name} of {data.root} had {data.counts[name]} usable clips when training began and has "
                f"{len(self.samples)} now; leave the tables alone while a run reads them, and start the run again"
            )

    def moments(self, sample: Sample) -> Tensor:
        """T 2C h w float32."""
        row = sample.latents_row
        shape = tuple(self._latents["shape"][row].as_py())
        dtype = self._latents["dtype"][row].as_py()
        return torch.from_numpy(unpack_array(self._latents["moments"][row].as_py(), dtype, shape))

    def t5(self, caption: Caption, text_length: int) -> Tensor:
        """N D float32. Raises UserError unless N is what the fuser reads."""
        table, row = self._t5, caption.t5_row
        length, width = table["length"][row].as_py(), table["width"][row].as_py()
        if length != text_length:
            raise UserError(
                f"t5_tokens holds {length} tokens a caption and the token fuser reads {text_length}; precompute with "
                f"the model that is trained, or set model.fuser.text_length={length}"
            )
        dtype = table["dtype"][row].as_py()
        return torch.from_numpy(unpack_array(table["states"][row].as_py(), dtype, (length, width)))

    def llm(self, caption: Caption, which_answer: float) -> tuple[Tensor, Tensor, Tensor] | None:
        """Query states (Lq E), states of the answer at ``which_answer`` in [0, 1) (La E), instruction tokens (4 E)."""
        if self._llm is None:
            return None
        table, row = self._llm, caption.llm_row
        width, dtype = table["width"][row].as_py(), table["dtype"][row].as_py()
        answers = table["answers"][row]
        answer = answers[int(which_answer * len(answers))]["states"]
        return (
            torch.from_numpy(unpack_array(table["query_states"][row].as_py(), dtype, (-1, width))),
            torch.from_numpy(unpack_array(answer.as_py(), dtype, (-1, width))),
            torch.from_numpy(unpack_array(table["instruction_states"][row].as_py(), dtype, (-1, width))),
        )


class _ShardCache:
    """The shards used last: as many as are mixed with each other, and one more."""

    def __init__(self, data: TrainingData, config: TrainingConfig) -> None:
        self._data = data
        self._config = config
        self._held: OrderedDict[str, _Shard] = OrderedDict()

    def __getitem__(self, name: str) -> _Shard:
        if name not in self._held:
            if len(self._held) > self._config.shuffle_shards:
                self._held.popitem(last=False)
            self._held[name] = _Shard(self._data, self._config, name)
        self._held.move_to_end(name)
        return self._held[name]


def _choose(weights: list[float], place: float) -> int:
    """The index at ``place`` in [0, 1) of the cumulated weights."""
    sums = list(accumulate(weights))
    return min(bisect_right(sums, place * sums[-1]), len(weights) - 1)
