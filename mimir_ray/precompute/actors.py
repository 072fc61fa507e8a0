"""The three Ray Data actors: each takes the name of a shard, reads the shard, and commits the shard of its own table.

Only names and counts pass between them. Of a shard that is committed already only the rows that it lacks are encoded.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mimir_ray.dataflow import Row
from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute.answers import keyed_captions, stored_answers
from mimir_ray.precompute.components import load_llm, load_t5, load_vae
from mimir_ray.precompute.config import PrecomputeConfig
from mimir_ray.precompute.encode import latent_rows, llm_rows, t5_rows
from mimir_ray.precompute.inputs import CaptionRow, ok_clips
from mimir_ray.precompute.lengths import TruncatedCaptions, truncated_captions
from mimir_ray.precompute.replacing import TableRun
from mimir_ray.precompute.round_trip import check_round_trip
from mimir_ray.precompute.rows import In, Key, complete
from mimir_ray.precompute.shard_plan import PlannedShard
from mimir_ray.precompute.sources import Sources
from mimir_ray.precompute.summary import MEASURE
from mimir_ray.records import Clip
from mimir_ray.storage import Table, join

Facts = dict[str, Any]
"""A planned shard, its predecessors, which of its tables are to be made, what of them is to be tried again, and what
was done."""


class LatentEncoder:
    """`clips` -> `latents`."""

    def __init__(self, data: str, model: ModelConfig, config: PrecomputeConfig) -> None:
        self.data, self.config = data, config
        self.table = Table(join(data, "latents"))
        self.vae = load_vae(model, config.latents.num_gpus, tiling=config.vae_tiling, slicing=config.vae_slicing)
        self.base = model.base
        self.round_trip_db: float | None = None

    def __call__(self, facts: Facts) -> Facts:
        done = _complete(self.table, facts, self.inputs, self.encode)
        return done | {MEASURE: math.nan if self.round_trip_db is None else self.round_trip_db}

    def inputs(self, planned: PlannedShard) -> list[tuple[Key, Clip]]:
        return [((clip.clip_id,), clip) for clip in ok_clips(self.data, planned)]

    def encode(self, clips: Sequence[Clip]) -> list[Row]:
        """Raises UserError where the VAE does not know such clips, which is found with the first of them."""
        with Sources(self.data, self.config.decode_timeout_s) as sources:
            if self.round_trip_db is None:
                self.round_trip_db = check_round_trip(clips, sources.read, self.vae, self.config, self.base)
            return latent_rows(clips, sources.read, self.vae, self.config)


class T5Encoder:
    """`captions` -> `t5_tokens`."""

    def __init__(self, data: str, model: ModelConfig, config: PrecomputeConfig) -> None:
        self.data, self.config = data, config
        self.table, self.upstream = Table(join(data, "t5_tokens")), Table(join(data, "latents"))
        self.branch = load_t5(model, config.t5_tokens.num_gpus)

    def __call__(self, facts: Facts) -> Facts:
        done = _complete(self.table, facts, partial(keyed_captions, self.data), self.encode, self.upstream)
        truncated = self.truncated(facts["shard"]).model_dump_json() if facts["t5_tokens"] else ""
        return done | {"truncated_captions": truncated}

    def truncated(self, shard: str) -> TruncatedCaptions:
        """The truncated captions of a committed shard."""
        rows = self.table.read(shard, ["text", "status"])
        return truncated_captions([rows], self.branch.tokenizer, self.branch.max_length)

    def encode(self, captions: Sequence[CaptionRow]) -> list[Row]:
        return t5_rows(captions, self.branch, self.config)


class LLMEncoder:
    """`captions`, and `answers` where an engine wrote them, -> `llm_tokens`."""

    def __init__(self, data: str, model: ModelConfig, config: PrecomputeConfig) -> None:
        self.data, self.config = data, config
        self.table = Table(join(data, "llm_tokens"))
        self.answered = None if config.engine == "transformers" else Table(join(data, "answers"))
        self.branch = load_llm(model, config.llm_tokens.num_gpus)

    def __call__(self, facts: Facts) -> Facts:
        encode = partial(self.encode, facts["shard"])
        upstream = self.answered or Table(join(self.data, "t5_tokens"))
        return _complete(self.table, facts, partial(keyed_captions, self.data), encode, upstream)

    def encode(self, shard: str, captions: Sequence[CaptionRow]) -> list[Row]:
        given = None
        if self.answered is not None:
            given = stored_answers(self.answered, shard, [], [tuple(caption.values()) for caption in captions])
        return llm_rows(captions, self.branch, self.config, given)


def _complete(
    table: Table,
    facts: Facts,
    inputs: Callable[[PlannedShard], Sequence[tuple[Key, In]]],
    encode: Callable[[Sequence[In]], list[Row]],
    upstream: Table | None = None,
) -> Facts:
    """Complete the shard where the driver found it pending. Adds what was done."""
    tried, encoded, began_s = 0, 0, time.perf_counter()
    if facts[table.name]:
        planned = PlannedShard.of(facts)
        shard, predecessors, retry = planned.shard, facts["predecessors"], facts["retry"]
        run = TableRun.of(facts, table.name)
        tried, encoded = complete(table, shard, predecessors, inputs(planned), encode, retry, upstream, run)
    did = {"tried": tried, "encoded": encoded, "busy_s": time.perf_counter() - began_s}
    return facts | {f"{table.name}_{what}": much for what, much in did.items()}
