"""`precompute`: the clips and captions of a data root become latents and token states, shard by shard, on Ray Data."""

import logging
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mimir_ray.config import Config
from mimir_ray.dataflow import map_actors, run
from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute.components import located, read_config
from mimir_ray.precompute.config import PrecomputeConfig
from mimir_ray.precompute.inputs import count_inputs, curated_shards, has_carried, ok_captions, ok_clips
from mimir_ray.precompute.keys import table_keys
from mimir_ray.storage import Manifest, Table, absolute, join

if TYPE_CHECKING:
    import ray.data

logger = logging.getLogger(__name__)


class PrecomputeSummary(Config):
    """What a finished precompute holds."""

    tables: dict[str, Manifest]
    clips: int
    """Clips that passed curation: the inputs."""
    rows_encoded: dict[str, int]
    """Rows that this run encoded, by table; what an earlier run committed is not among them."""
    busy_s: dict[str, float]
    """Time that this run's actors spent encoding, by table."""
    seconds: float

    @property
    def rows_per_s(self) -> float:
        """Rows of all tables that this run encoded, per second of its wall time."""
        return sum(self.rows_encoded.values()) / self.seconds if self.seconds else 0.0


def precompute(
    data: str,
    model: ModelConfig,
    config: PrecomputeConfig,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PrecomputeSummary:
    """Write `latents`, `t5_tokens` and, where the model has an LLM, `llm_tokens` beside `clips` and `captions`.

    Runs inside an initialised Ray. Committed shards are not touched; a run that was killed goes on where it was.
    ``overwrite`` replaces the tables that another configuration made, and only those. ``progress`` gets the shards done
    and their number.

    Raises:
        UserError: curation is not finished, a table is of another configuration, or the model cannot take the size.
        RuntimeError: shards that could not be encoded, by name; running again tries them again.
    """
    from mimir_ray.model.latents import check_size

    began_s = time.monotonic()
    data, model = absolute(data), located(model)
    vae, transformer = read_config(model, "vae"), read_config(model, "transformer")
    check_size(vae, transformer, config.num_frames, config.height, config.width)
    shards = curated_shards(data)
    tables = _open_tables(data, table_keys(model, config), set(shards), overwrite)
    drop_stale(data, tables, shards)
    pending = find_pending(tables, shards)
    waiting = ", ".join(f"{len(names)} for {name}" for name, names in pending.items())
    logger.info("precompute: %d shards, pending %s", len(shards), waiting)
    rows: dict[str, int] = dict.fromkeys(tables, 0)
    busy_s: dict[str, float] = dict.fromkeys(tables, 0.0)
    todo = set().union(*pending.values())
    finished = run(plan(data, model, config, pending)) if todo else ()
    for done, facts in enumerate(finished, start=len(shards) - len(todo) + 1):
        for name in tables:
            rows[name] += int(facts.get(f"{name}_rows", 0))
            busy_s[name] += float(facts.get(f"{name}_busy_s", 0.0))
        seconds = time.monotonic() - began_s
        logger.info("precompute: %d/%d shards, %.0f rows/s", done, len(shards), sum(rows.values()) / seconds)
        if progress is not None:
            progress(done, len(shards))
    if missing := {name: names for name, table in tables.items() if (names := table.pending(shards))}:
        listed = "; ".join(f"{name}: {', '.join(names[:5])} ({len(names)} in all)" for name, names in missing.items())
        raise RuntimeError(f"shards were given up ({listed}); Ray's log has the reason; run again to try them again")
    inputs = count_inputs(data, shards)
    return PrecomputeSummary(
        tables={name: table.finish(inputs[name]) for name, table in tables.items()},
        clips=inputs["latents"],
        rows_encoded=rows,
        busy_s=busy_s,
        seconds=time.monotonic() - began_s,
    )


def plan(data: str, model: ModelConfig, config: PrecomputeConfig, pending: dict[str, list[str]]) -> "ray.data.Dataset":
    """The whole pipeline: shard names -> VAE -> T5 -> LLM, each stage one pool of actors that hold one encoder each.

    A stage none of whose shards is pending is left out, with its model.
    """
    import ray.data

    from mimir_ray.precompute.actors import LatentEncoder, LLMEncoder, T5Encoder

    names = sorted(set().union(*pending.values()))
    todo = {table: set(shards) for table, shards in pending.items()}
    dataset: ray.data.Dataset = ray.data.from_items(  # one row, and one block, a shard: stages overlap shard by shard
        [{"shard": name} | {table: name in todo[table] for table in pending} for name in names],
        override_num_blocks=len(names),
    )
    encoders: dict[str, Any] = {"latents": LatentEncoder, "t5_tokens": T5Encoder, "llm_tokens": LLMEncoder}
    for table in pending:  # 1 shard name in, 1 shard name with counts out; the rows go to files
        if todo[table]:
            load = partial(encoders[table], data, model, config)
            dataset = map_actors(dataset, encoders[table].__name__, load, **getattr(config, table).reserved)
    dataset.context.max_errored_blocks = config.failed_shards
    return dataset


def _open_tables(data: str, keys: dict[str, Config], expected: set[str], overwrite: bool) -> dict[str, Table]:
    """Begin every table; shards of clips that are no longer there are dropped."""
    tables = {name: Table(join(data, name)) for name in keys}
    for name, table in tables.items():
        table.begin(keys[name], overwrite)
        table.drop([shard for shard in table.shards() if shard not in expected])
    return tables


def drop_stale(data: str, tables: dict[str, Table], shards: list[str]) -> None:
    """Drop the shards whose clips or captions are not those that were encoded: curation has judged anew since."""
    committed = {name: set(table.shards()) for name, table in tables.items()}
    for shard in shards:
        encoded = [table for name, table in tables.items() if shard in committed[name]]
        try:
            wanted = _inputs(data, shard) if encoded else {}
            stale = [table for table in encoded if _rows_for(table, shard) != wanted[table.name]]
        except (OSError, pa.ArrowException):  # whoever reads its rows says what is wrong with it
            continue
        for table in stale:
            table.drop([shard])


def _inputs(data: str, shard: str) -> dict[str, list[tuple[str, ...]]]:
    """What each table should have rows for, in order."""
    clips: list[tuple[str, ...]] = sorted((clip.clip_id,) for clip in ok_clips(data, shard))
    captions: list[tuple[str, ...]] = sorted(
        (caption["clip_id"], caption["kind"], caption["text"]) for caption in ok_captions(data, shard)
    )
    return {"latents": clips, "t5_tokens": captions, "llm_tokens": captions}


def _rows_for(table: Table, shard: str) -> list[tuple[str, ...]]:
    key = ["clip_id"] if table.name == "latents" else ["clip_id", "kind", "text"]
    return sorted(tuple(row[name] for name in key) for row in table.read(shard, key).to_pylist())


def find_pending(tables: dict[str, Table], shards: list[str]) -> dict[str, list[str]]:
    """Shards to encode, by table. Where an earlier table's shard is encoded anew, rows that were carried over from it
    may now be ok: their shard is encoded anew too."""
    pending = {name: table.pending(shards) for name, table in tables.items()}
    for upstream, table in pairwise(tables.values()):
        again = set(pending[upstream.name]) - set(pending[table.name])
        table.drop(shard for shard in again if has_carried(table, shard, upstream))
        pending[table.name] = table.pending(shards)
    return pending
