"""The rows of samples, read when a batch needs them.

A shard is opened by what names its rows. Of its latents and states no more is read than the groups of rows, and the
columns, that the samples asked for lie in; the groups read last are kept.

Shapes: ``T C h w`` latents, ``N`` text tokens of width ``D``, ``L`` LLM tokens of width ``E``.
"""

from bisect import bisect_right
from functools import partial

import pyarrow as pa
import torch
from torch import Tensor

from mimir_ray.config import UserError
from mimir_ray.records import unpack_array
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.cache import Cache
from mimir_ray.training.data.order import Shape
from mimir_ray.training.data.samples import (
    CAPTION_KEYS,
    LATENTS_KEYS,
    CaptionPlace,
    Sample,
    TrainingData,
    content_of,
    join_samples,
)
from mimir_ray.training.data.source import Rows

_COLUMNS = {
    "latents": ["moments", "shape", "dtype"],
    "t5_tokens": ["states", "length", "width", "dtype"],
    "llm_tokens": ["query_states", "answers", "instruction_states", "width", "dtype"],
}


class Reader:
    """Opens shards for one worker; safe for several threads."""

    def __init__(self, data: TrainingData, config: TrainingConfig) -> None:
        self._data = data
        self._weights = config.caption_weights
        # The shards that are mixed now, and those that come next; few bytes each.
        self._shards: Cache[OpenShard] = Cache(2 * config.shuffle_shards * len(data.buckets), lambda _: 1)
        self._groups: Cache[pa.Table] = Cache(config.cache_mib * 2**20, _weigh)

    def shard(self, name: str) -> "OpenShard":
        """Raises UserError where the shard cannot be read, or is not what it was when training began."""
        return self._shards.get(name, partial(self._open, name))

    def _open(self, name: str) -> "OpenShard":
        source, decoder = self._data.source, self._data.decoder
        tables = {table: source.open(table, name) for table in _COLUMNS if decoder or table != "llm_tokens"}
        keys = [rows.read(LATENTS_KEYS if table == "latents" else CAPTION_KEYS) for table, rows in tables.items()]
        samples = join_samples(keys[0], keys[1], keys[2] if decoder else None, self._weights)
        if content_of(samples, keys[1]) != self._data.contents[name]:
            had = self._data.counts.get(name, 0)
            raise UserError(
                f"shard {name} of {self._data.root} had {had} usable clips when training began and has {len(samples)} "
                "now, or others, or other captions; leave the tables alone while a run reads them and start it again"
            )
        return OpenShard(name, tables, samples, self._groups)


class OpenShard:
    """A shard of every table."""

    def __init__(self, name: str, tables: dict[str, Rows], samples: list[Sample], groups: Cache[pa.Table]) -> None:
        self._name = name
        self._tables = tables
        self._groups = groups
        self.samples: dict[Shape, list[Sample]] = {}
        """The usable samples by the shape of their latents."""
        for sample in samples:
            self.samples.setdefault(sample.shape, []).append(sample)

    def moments(self, sample: Sample) -> Tensor:
        """T 2C h w float32."""
        group, row = self._find("latents", sample.latents_row)
        shape, dtype = tuple(group["shape"][row].as_py()), group["dtype"][row].as_py()
        return torch.from_numpy(unpack_array(group["moments"][row].as_buffer(), dtype, shape))

    def t5(self, caption: CaptionPlace, text_length: int) -> Tensor:
        """N D float32. Raises UserError unless N is what the fuser reads."""
        group, row = self._find("t5_tokens", caption.t5_row)
        length, width, dtype = (group[name][row].as_py() for name in ("length", "width", "dtype"))
        if length != text_length:
            raise UserError(
                f"t5_tokens holds {length} tokens a caption and the token fuser reads {text_length}; precompute with "
                f"the model that is trained, or set model.fuser.text_length={length}"
            )
        return torch.from_numpy(unpack_array(group["states"][row].as_buffer(), dtype, (length, width)))

    def llm(self, caption: CaptionPlace, which_answer: float) -> tuple[Tensor, Tensor, Tensor] | None:
        """Query states (Lq E), states of the answer at ``which_answer`` in [0, 1) (La E), instruction tokens (4 E)."""
        if caption.llm_row < 0:
            return None
        group, row = self._find("llm_tokens", caption.llm_row)
        width, dtype = group["width"][row].as_py(), group["dtype"][row].as_py()
        answers = group["answers"][row].values
        answer = answers.field("states")[int(which_answer * len(answers))]
        query, instruction = group["query_states"][row], group["instruction_states"][row]
        states = (
            torch.from_numpy(unpack_array(scalar.as_buffer(), dtype, (-1, width)))
            for scalar in (query, answer, instruction)
        )
        queries, answered, instructions = states
        return queries, answered, instructions

    def _find(self, table: str, row: int) -> tuple[pa.Table, int]:
        """The group of rows that a row lies in, and its number there."""
        rows = self._tables[table]
        number = bisect_right(rows.starts, row) - 1
        group = self._groups.get((table, self._name, number), partial(rows.read_group, number, _COLUMNS[table]))
        return group, row - rows.starts[number]


def _weigh(group: pa.Table) -> int | None:
    """Bytes of a group of rows; None for a row by itself, which nobody wants again before the next epoch."""
    return int(group.get_total_buffer_size()) if group.num_rows > 1 else None
