"""`precompute`: the clips and captions of a data root become latents and token states, shard by shard, on Ray Data."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mimir_ray.dataflow import map_actors, run_shards, through_engine
from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute.asking import AnswerCollector, ask, engine_config
from mimir_ray.precompute.components import check_model, load_t5_tokenizer, text_length
from mimir_ray.precompute.config import PrecomputeConfig
from mimir_ray.precompute.keys import table_keys
from mimir_ray.precompute.lengths import TruncatedCaptions, keep_counts, kept_counts
from mimir_ray.precompute.outcomes import Retry
from mimir_ray.precompute.replacing import TableRun, open_table
from mimir_ray.precompute.rows import survey
from mimir_ray.precompute.shard_plan import PlannedShard, plan_shards
from mimir_ray.precompute.summary import MEASURE, PrecomputeSummary
from mimir_ray.room import Need, room
from mimir_ray.storage import Table, absolute, account, find_predecessors, join
from mimir_ray.vllm import TextEngine, TextEngineConfig, vllm_engine

if TYPE_CHECKING:
    import ray.data

logger = logging.getLogger(__name__)

_ASK_CPUS = 0.25
"""The CPUs of a task that reads a shard's captions for the engine: few, to fit beside actors on two cores."""


def precompute(
    data: str,
    model: ModelConfig,
    config: PrecomputeConfig,
    *,
    overwrite: bool = False,
    retry_quarantined: bool = False,
    progress: Callable[[int, int], None] | None = None,
    engine: Callable[[TextEngineConfig], TextEngine] = vllm_engine,
) -> PrecomputeSummary:
    """Write `latents`, `t5_tokens` and, where the model has an LLM, `llm_tokens` beside `clips` and `captions`; and
    `answers`, where another engine than transformers writes them.

    Runs inside an initialised Ray. A run that was killed goes on where it was. Where curation has judged anew, rows
    that are no longer wanted go and those that are new are encoded. What failed because a video was away, or has
    changed, is tried again; ``retry_quarantined`` tries all again that could not be processed; every other row stays.
    ``overwrite`` replaces the tables that another configuration made, and only those. Where there are none it makes all
    tables anew; but what an interrupted run has left to do comes first. Either way a shard is replaced when its new
    rows are there, and not before. ``progress`` gets the shards done and their number. ``engine`` makes what writes the
    answers where that is not transformers.

    Raises:
        UserError: curation is not finished, a table is of another configuration, the model cannot be run, cannot take
            the size or does not know such videos, the cluster has no room for the actors, or the engine is needed and
            not there.
        RuntimeError: shards that could not be encoded, by name; running again tries them again.
    """
    began_s = time.monotonic()
    data, model = absolute(data), model.located()
    check_model(model, config)
    shards = {planned.shard: planned for planned in plan_shards(data, config.clips_per_shard)}
    keys = table_keys(model, config)
    tables = {name: Table(join(data, name)) for name in keys}
    runs = {name: open_table(table, keys[name], overwrite) for name, table in tables.items()}
    replacing = any(run.foreign or run.document for run in runs.values())
    retry: Retry = "quarantined" if retry_quarantined else "passing"
    if overwrite and not replacing and not _interrupted(data, tables, list(shards.values())):
        logger.warning(
            "everything is encoded anew, and each shard replaced when its rows are there: a run that is stopped leaves "
            "the others as they are, and --overwrite begins again"
        )
        retry = "everything"
    found = survey(data, tables, list(shards.values()), retry, runs)
    pending = found.pending
    waiting = ", ".join(f"{len(names)} for {name}" for name, names in pending.items())
    logger.info("precompute: %d shards, pending %s", len(shards), waiting)
    tried, encoded = dict.fromkeys(tables, 0), dict.fromkeys(tables, 0)
    busy_s: dict[str, float] = dict.fromkeys(tables, 0.0)
    known = tables["latents"].manifest()
    measured = dict(known.measured) if known and not runs["latents"].foreign else {}
    counts = kept_counts(tables["t5_tokens"], set(shards) - set(pending["t5_tokens"]))
    if todo := [shards[name] for name in sorted(set().union(*pending.values()))]:
        dataset = plan(data, model, config, todo, pending, _find_predecessors(tables, shards), retry, runs, engine)
        with room("precompute", needs(config, list(filter(pending.get, pending)), engine)):
            for name in filter(pending.get, pending):
                if not runs[name].document:  # one that is replaced stays what it is until the first shard is there
                    tables[name].reopen()
            for facts in run_shards(dataset, "precompute", len(shards) - len(todo), len(shards), progress):
                for name in tables:
                    tried[name] += int(facts.get(f"{name}_tried", 0))
                    encoded[name] += int(facts.get(f"{name}_encoded", 0))
                    busy_s[name] += float(facts.get(f"{name}_busy_s", 0.0))
                if (found_db := facts.get(MEASURE)) and not math.isnan(found_db):
                    measured[MEASURE] = found_db
                if truncated := facts.get("truncated_captions"):
                    counts[facts["shard"]] = TruncatedCaptions.model_validate_json(truncated)
        still = {name: run.left(tables[name], keys[name]) for name, run in runs.items()}
        left = {name: names for name, names in survey(data, tables, todo, "nothing", still).pending.items() if names}
        if left:
            listed = "; ".join(f"{name}: {', '.join(names[:5])} ({len(names)} in all)" for name, names in left.items())
            raise RuntimeError(
                f"shards were given up ({listed}); Ray's log has the reason; run again to try them again"
            )
    for name, table in tables.items():  # what was of use in them is in other shards now
        if not table.is_of(keys[name]):
            runs[name].open(table)  # no shard had to be made for that
        table.drop(set(table.shards()) - set(shards))
    return PrecomputeSummary(
        tables={
            name: table.finish(found.inputs[name], measured if name == "latents" else None)
            for name, table in tables.items()
        },
        accounts={name: account(table) for name, table in tables.items()},
        clips=found.inputs["latents"],
        truncated=keep_counts(tables["t5_tokens"], counts, partial(load_t5_tokenizer, model), text_length(model)),
        rows_tried=tried,
        rows_encoded=encoded,
        shards_written=len(todo),
        busy_s=busy_s,
        seconds=time.monotonic() - began_s,
    )


def plan(
    data: str,
    model: ModelConfig,
    config: PrecomputeConfig,
    shards: Sequence[PlannedShard],
    pending: Mapping[str, Sequence[str]],
    predecessors: Mapping[str, Sequence[str]],
    retry: Retry,
    runs: Mapping[str, TableRun],
    engine: Callable[[TextEngineConfig], TextEngine] = vllm_engine,
) -> "ray.data.Dataset":
    """The whole pipeline: shards -> VAE -> T5 -> LLM, each stage one pool of actors that hold one encoder each.
    Where an engine writes the answers, it stands before the LLM.

    ``predecessors`` are the shards that the files of each one may have been in. A stage none of whose shards is pending
    is left out, with its model. Raises UserError for an engine that is needed and not there.
    """
    import ray.data

    from mimir_ray.precompute.actors import LatentEncoder, LLMEncoder, T5Encoder

    todo = {table: set(names) for table, names in pending.items()}
    dataset: ray.data.Dataset = ray.data.from_items(  # one row, and one block, a shard: stages overlap shard by shard
        [
            shard_facts(planned, predecessors[planned.shard], retry, runs)
            | {table: planned.shard in todo[table] for table in pending}
            for planned in shards
        ],
        override_num_blocks=len(shards),
    )
    encoders: dict[str, Any] = {"latents": LatentEncoder, "t5_tokens": T5Encoder, "llm_tokens": LLMEncoder}
    for table in pending:  # 1 shard in, 1 shard with counts out; the rows go to files
        if not todo[table]:
            continue
        if table == "answers":  # 1 shard -> its questions -> 1 shard
            asking = partial(ask, data=data, model=model, config=config)
            collector = partial(AnswerCollector, data, model, config)
            made = engine(engine_config(model, config))
            dataset = through_engine(dataset, table, made, asking, collector, num_cpus=_ASK_CPUS, max_retries=3)
        else:
            load = partial(encoders[table], data, model, config)
            dataset = map_actors(dataset, encoders[table].__name__, load, **getattr(config, table).reserved)
    dataset.context.max_errored_blocks = config.failed_shards
    return dataset


def needs(
    config: PrecomputeConfig,
    tables: Sequence[str],
    engine: Callable[[TextEngineConfig], TextEngine] = vllm_engine,
) -> list[Need]:
    """What the stages that make these tables hold at once; of an engine of others nothing is known."""
    found = [getattr(config, name).need(f"precompute.{name}") for name in tables if name != "answers"]
    if "answers" in tables and engine is vllm_engine:
        # Beside its GPUs, a task of Ray's own between us and the engine.
        found += [config.vllm.need("precompute.vllm"), Need("precompute.vllm", cpus=1.0, fields=("", "", ""))]
    return found


def shard_facts(
    planned: PlannedShard, predecessors: Sequence[str], retry: Retry, runs: Mapping[str, TableRun]
) -> dict[str, Any]:
    """What every stage is told of a shard."""
    facts = planned.row() | {"predecessors": list(predecessors), "retry": retry}
    for name, run in runs.items():
        facts |= run.facts(name, [planned.shard, *predecessors])
    return facts


def _interrupted(data: str, tables: Mapping[str, Table], shards: Sequence[PlannedShard]) -> bool:
    """Whether a run stopped that was to make some of these tables, or rows that they lack.

    One that was making all of them anew leaves all unfinished and no row lacking: that one begins again.
    """
    unfinished = [name for name, table in tables.items() if table.manifest() is None]
    some = 0 < len(unfinished) < len(tables)
    return some or (bool(unfinished) and any(survey(data, tables, shards, "nothing").pending.values()))


def _find_predecessors(tables: Mapping[str, Table], shards: Iterable[str]) -> dict[str, list[str]]:
    """The other shards, for each one, whose rows may be of the same files: one whose files change gets another name.

    Such shards are there until nothing is pending any more.
    """
    return find_predecessors(shards, {shard for table in tables.values() for shard in table.shards()})
