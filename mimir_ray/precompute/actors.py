"""The three Ray Data actors: each takes the name of a shard, reads the shard, and commits the shard of its own table.

Only names and counts pass between them. A row that an earlier actor could not encode is carried over with its reason.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute.components import load_llm, load_t5, load_vae
from mimir_ray.precompute.config import PrecomputeConfig
from mimir_ray.precompute.encode import Row, latent_rows, llm_rows, t5_rows
from mimir_ray.precompute.inputs import Caption, not_ok, ok_captions, ok_clips
from mimir_ray.records import SCHEMAS, Clip
from mimir_ray.storage import Table, join, local_copy
from mimir_ray.video import read_frames

Facts = dict[str, Any]
"""A shard's name, which of its tables are to be made, and what was done."""


class LatentEncoder:
    """`clips` -> `latents`."""

    def __init__(self, data: str, model: ModelConfig, config: PrecomputeConfig) -> None:
        self.data, self.config = data, config
        self.table = Table(join(data, "latents"))
        self.vae = load_vae(model, config.latents.num_gpus)

    def __call__(self, facts: Facts) -> Facts:
        return _commit_pending(self.table, facts, self.encode)

    def encode(self, shard: str) -> list[Row]:
        return latent_rows(ok_clips(self.data, shard), self.read, self.vae, self.config)

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
        return _commit_pending(self.table, facts, self.encode)

    def encode(self, shard: str) -> list[Row]:
        captions, key = ok_captions(self.data, shard), ["clip_id"]
        return _encode_rest(captions, self.upstream, shard, key, lambda rest: t5_rows(rest, self.branch, self.config))


class LLMEncoder:
    """`captions` -> `llm_tokens`."""

    def __init__(self, data: str, model: ModelConfig, config: PrecomputeConfig) -> None:
        self.data, self.config = data, config
        self.table, self.upstream = Table(join(data, "llm_tokens")), Table(join(data, "t5_tokens"))
        self.branch = load_llm(model, config.llm_tokens.num_gpus)

    def __call__(self, facts: Facts) -> Facts:
        return _commit_pending(self.table, facts, self.encode)

    def encode(self, shard: str) -> list[Row]:
        captions, key = ok_captions(self.data, shard), ["clip_id", "kind", "text"]
        return _encode_rest(captions, self.upstream, shard, key, lambda rest: llm_rows(rest, self.branch, self.config))


def _encode_rest(
    captions: list[Caption],
    upstream: Table,
    shard: str,
    key: Sequence[str],
    encode: Callable[[list[Caption]], list[Row]],
) -> list[Row]:
    """Encode the captions that ``upstream`` has as ok; the others keep its status and reason."""
    carried = not_ok(upstream, shard, key)
    lost = [carried.get(tuple(caption[name] for name in key)) for caption in captions]
    encoded = iter(encode([caption for caption, row in zip(captions, lost, strict=True) if row is None]))
    return [next(encoded) if row is None else {**caption, **row} for caption, row in zip(captions, lost, strict=True)]


def _commit_pending(table: Table, facts: Facts, encode: Callable[[str], list[Row]]) -> Facts:
    """Encode and commit the shard where the driver found it missing; add what was done."""
    rows: list[Row] = []
    began_s = time.perf_counter()
    if facts[table.name]:
        rows = encode(facts["shard"])
        table.commit(facts["shard"], pa.Table.from_pylist(rows, schema=SCHEMAS[table.name]))
    ok = sum(row["status"] == "ok" for row in rows)
    done = {"rows": len(rows), "ok": ok, "busy_s": time.perf_counter() - began_s}
    return facts | {f"{table.name}_{name}": value for name, value in done.items()}
