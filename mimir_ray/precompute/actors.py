"""The three Ray Data actors: each takes the name of a shard, reads the shard, and commits the shard of its own table.

Only names and counts pass between them. Of a shard that is committed already only the rows that it lacks are encoded.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute.components import load_llm, load_t5, load_vae
from mimir_ray.precompute.config import PrecomputeConfig
from mimir_ray.precompute.encode import Row, latent_rows, llm_rows, t5_rows
from mimir_ray.precompute.inputs import Caption, ok_captions, ok_clips
from mimir_ray.precompute.rows import Key, carried_rows, kept_rows
from mimir_ray.records import SCHEMAS, Clip
from mimir_ray.storage import Table, join, local_copy
from mimir_ray.video import read_frames

Facts = dict[str, Any]
"""A shard's name, which of its tables are to be made, and what was done."""
In = TypeVar("In")


class LatentEncoder:
    """`clips` -> `latents`."""

    def __init__(self, data: str, model: ModelConfig, config: PrecomputeConfig) -> None:
        self.data, self.config = data, config
        self.table = Table(join(data, "latents"))
        self.vae = load_vae(model, config.latents.num_gpus, tiling=config.vae_tiling, slicing=config.vae_slicing)

    def __call__(self, facts: Facts) -> Facts:
        return _complete(self.table, facts, self.inputs, self.encode)

    def inputs(self, shard: str) -> list[tuple[Key, Clip]]:
        return [((clip.clip_id,), clip) for clip in ok_clips(self.data, shard)]

    def encode(self, clips: Sequence[Clip]) -> list[Row]:
        return latent_rows(clips, self.read, self.vae, self.config)

    def read(self, clip: Clip, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        with local_copy(clip.path) as path:
            return read_frames(path, indices, timeout_s=self.config.decode_timeout_s).frames


class T5Encoder:
    """`captions` -> `t5_tokens`."""

    def __init__(self, data: str, model: ModelConfig, config: PrecomputeConfig) -> None:
        self.data, self.config = data, config
        self.table, self.upstream = Table(join(data, "t5_tokens")), Table(join(data, "latents"))
        self.branch = load_t5(model, config.t5_tokens.num_gpus)

    def __call__(self, facts: Facts) -> Facts:
        return _complete(self.table, facts, partial(_captions, self.data), self.encode, self.upstream)

    def encode(self, captions: Sequence[Caption]) -> list[Row]:
        return t5_rows(captions, self.branch, self.config)


class LLMEncoder:
    """`captions` -> `llm_tokens`."""

    def __init__(self, data: str, model: ModelConfig, config: PrecomputeConfig) -> None:
        self.data, self.config = data, config
        self.table, self.upstream = Table(join(data, "llm_tokens")), Table(join(data, "t5_tokens"))
        self.branch = load_llm(model, config.llm_tokens.num_gpus)

    def __call__(self, facts: Facts) -> Facts:
        return _complete(self.table, facts, partial(_captions, self.data), self.encode, self.upstream)

    def encode(self, captions: Sequence[Caption]) -> list[Row]:
        return llm_rows(captions, self.branch, self.config)


def _captions(data: str, shard: str) -> list[tuple[Key, Caption]]:
    return [(tuple(caption.values()), caption) for caption in ok_captions(data, shard)]


def _complete(
    table: Table,
    facts: Facts,
    inputs: Callable[[str], Sequence[tuple[Key, In]]],
    encode: Callable[[Sequence[In]], list[Row]],
    upstream: Table | None = None,
) -> Facts:
    """Commit the shard where the driver found it pending: the rows that stay, those that ``upstream`` could not encode,
    and the rest encoded, in the order of the inputs. Adds what was done."""
    encoded, began_s = 0, time.perf_counter()
    if facts[table.name]:
        shard = facts["shard"]
        wanted = inputs(shard)
        there = kept_rows(table, shard)
        missing = [key for key, _ in wanted if key not in there]
        if upstream is not None:
            there |= carried_rows(upstream, shard, table.name, missing)
        rest = [item for key, item in wanted if key not in there]
        fresh, encoded = iter(encode(rest)), len(rest)
        rows = [there[key] if key in there else next(fresh) for key, _ in wanted]
        table.commit(shard, pa.Table.from_pylist(rows, schema=SCHEMAS[table.name]))
    return facts | {f"{table.name}_encoded": encoded, f"{table.name}_busy_s": time.perf_counter() - began_s}
