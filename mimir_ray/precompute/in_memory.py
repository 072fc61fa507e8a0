"""The rows of precompute in the memory of the cluster instead of tables: for a few clips and a first try.

One model after another is loaded in Ray actors, encodes everything, and leaves: its GPU is free for the next one, and
in the end for training. What was encoded stays in Ray's object store, which moves to disk what memory does not hold,
until this process ends.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from mimir_ray.config import UserError, fingerprint
from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute.components import check_model, load_t5_tokenizer, text_length
from mimir_ray.precompute.config import PrecomputeConfig
from mimir_ray.precompute.inputs import ok_captions, ok_clips
from mimir_ray.precompute.keys import table_keys
from mimir_ray.precompute.lengths import truncated_captions
from mimir_ray.precompute.shard_plan import PlannedShard, plan_shards
from mimir_ray.records import SCHEMAS
from mimir_ray.room import find_room
from mimir_ray.storage import absolute

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedTables:
    """What the tables would hold, shard by shard. Workers on a machine share one copy of a shard."""

    fingerprints: dict[str, str]
    """Configuration fingerprint of each table, as if it had been written."""
    shard_refs: dict[str, dict[str, Any]]
    """Ray's references of the rows, by table and shard."""

    def check(self, tables: Sequence[str]) -> dict[str, str]:
        """Fingerprints of these tables. Raises UserError where one was not encoded."""
        if missing := [name for name in tables if name not in self.fingerprints]:
            raise UserError(f"nothing was encoded for {', '.join(missing)}; name a language model with model.llm")
        return {name: self.fingerprints[name] for name in tables}

    def shards(self) -> list[str]:
        """Names of the shards."""
        return sorted(self.shard_refs["latents"])

    def open(self, table: str, shard: str) -> "EncodedRows":
        """One shard, as Arrow buffers in the object store."""
        import ray

        cluster: Any = ray
        return EncodedRows(cluster.get(self.shard_refs[table][shard]))


@dataclass(frozen=True)
class EncodedRows:
    """A shard in memory: every row can be had alone."""

    rows: pa.Table

    @property
    def starts(self) -> Sequence[int]:
        """Number of the first row of each group, which are single rows."""
        return range(self.rows.num_rows)

    def read(self, columns: Sequence[str]) -> pa.Table:
        """All rows."""
        return self.rows.select(list(columns))

    def read_group(self, number: int, columns: Sequence[str]) -> pa.Table:
        """One row."""
        return self.rows.slice(number, 1).select(list(columns))


def encode_in_memory(data: str, model: ModelConfig, config: PrecomputeConfig) -> EncodedTables:
    """Encode the clips and captions under ``data`` without writing anything; runs inside an initialised Ray.

    The rows of each shard are those that ``precompute`` would write, but that captions of a clip without latents are
    encoded too.

    Raises:
        UserError: curation is not finished, a model cannot be run, take the size or fit its GPU, the cluster has no
            room for the actors, or answers are to come from an engine.
    """
    import ray

    if config.engine != "transformers":
        raise UserError(
            f"precompute.engine={config.engine} writes its answers to a table, and a run without cache has none: set "
            "precompute.engine=transformers, or run `mimir precompute` and train on its tables"
        )
    cluster: Any = ray
    data, model = absolute(data), model.located()
    check_model(model, config)
    keys, shards = table_keys(model, config), plan_shards(data, config.clips_per_shard)
    for table in keys:  # one after another
        pool = getattr(config, table)
        find_room("encoding", [replace(pool.need(f"precompute.{table}"), count=min(pool.actors, len(shards)))])
    tables: dict[str, dict[str, Any]] = {}
    for table in keys:
        pool = getattr(config, table)
        options = {"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus, "max_restarts": 3, "max_task_retries": 1}
        actor = cluster.remote(_ShardEncoder).options(**options)
        actors = [actor.remote(table, data, model, config) for _ in range(min(pool.actors, len(shards)))]
        encoding = {
            planned.shard: actors[number % len(actors)].encode.options(num_returns=2).remote(planned)
            for number, planned in enumerate(shards)
        }
        rows = 0
        for done, (_, count) in enumerate(encoding.values(), start=1):
            rows += cluster.get(count)
            logger.info("%s: %d/%d shards, %d rows in memory", table, done, len(shards), rows)
        tables[table] = {shard: encoded for shard, (encoded, _) in encoding.items()}
        for each in actors:
            cluster.kill(each)
    encoded = EncodedTables({name: fingerprint(key) for name, key in keys.items()}, tables)
    captions = (encoded.open("t5_tokens", shard).read(["text", "status"]) for shard in encoded.shards())
    truncated = truncated_captions(captions, load_t5_tokenizer(model), text_length(model))
    if truncated.captions:
        logger.warning("%s", truncated)
    return encoded


class _ShardEncoder:
    """An actor that makes the rows of one table. A model that cannot be loaded is the first shard's error."""

    def __init__(self, table: str, data: str, model: ModelConfig, config: PrecomputeConfig) -> None:
        self._table = table
        self._settings = data, model, config

    def encode(self, planned: PlannedShard) -> tuple[pa.Table, int]:
        """The rows of a shard, and their number."""
        rows = self._encode(planned)
        return pa.Table.from_pylist(rows, schema=SCHEMAS[self._table]), len(rows)

    @cached_property
    def _encode(self) -> Callable[[PlannedShard], list[dict[str, Any]]]:
        from mimir_ray.precompute.actors import LatentEncoder, LLMEncoder, T5Encoder
        from mimir_ray.precompute.encode import llm_rows, t5_rows

        data, model, config = self._settings
        if self._table == "latents":
            latents = LatentEncoder(data, model, config)
            return lambda planned: latents.encode(ok_clips(data, planned))
        if self._table == "t5_tokens":
            t5 = T5Encoder(data, model, config)
            return lambda planned: t5_rows(ok_captions(data, planned), t5.branch, config)
        llm = LLMEncoder(data, model, config)
        return lambda planned: llm_rows(ok_captions(data, planned), llm.branch, config)
