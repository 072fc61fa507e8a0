"""`curate`: from files to the `videos`, `clips` and `captions` tables, on Ray Data."""

import logging
import pickle
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from mimir_ray.config import Config, fingerprint
from mimir_ray.curation.asking import ScoreCollector, ask
from mimir_ray.curation.config import CurationConfig
from mimir_ray.curation.models.config import require_models
from mimir_ray.curation.reuse import forget_failures, known_predecessors
from mimir_ray.curation.rules import Rules
from mimir_ray.curation.sources import SourceFile, discover, plan
from mimir_ray.curation.split import SplitKey
from mimir_ray.curation.stages import (
    MODEL_STAGES,
    ScoringStage,
    judge,
    load_score,
    scoring_stages,
    split,
    unscored,
)
from mimir_ray.curation.summary import CurationSummary, summarise
from mimir_ray.curation.tables import outcome_table, stage_table
from mimir_ray.dataflow import map_actors, map_tasks, run_shards, through_engine
from mimir_ray.room import Need, find_room, room
from mimir_ray.storage import Table, ahead
from mimir_ray.vllm import TextEngine, TextEngineConfig, vllm_engine

if TYPE_CHECKING:
    from ray.data import Dataset

logger = logging.getLogger(__name__)


class VerdictKey(Config):
    """What decides `clips` and `captions`: the rules, and what every stage before them was made with."""

    rules: Rules
    split: SplitKey
    stages: dict[str, str]
    """Fingerprints of what decides their scores, or `off`."""


def curate(
    sources: Sequence[str],
    out: str,
    config: CurationConfig,
    *,
    overwrite: bool = False,
    retry_quarantined: bool = False,
    progress: Callable[[int, int], None] | None = None,
    engine: Callable[[TextEngineConfig], TextEngine] = vllm_engine,
) -> CurationSummary:
    """Curate the videos that `sources` (folders, files, globs) name into the tables under the data root `out`.

    A run that was killed continues where it stopped, and a finished one is left alone, as long as the files and
    `config` are the same; changed or new files are curated and those that are gone are dropped. Another threshold
    judges the scores that are there anew. Another way to split or to measure is refused, unless `overwrite` says that
    the tables that it makes stale may go. `retry_quarantined` tries again what could not be processed before.
    `progress` gets the shards done and their number, which are logged without it. `engine` makes what stages ask whose
    engine is not transformers.

    Raises UserError for sources, models or an `out` that the user can mend and for a cluster without room for the
    stages, RuntimeError when shards were lost because their workers died.
    """
    start = time.monotonic()
    require_models(config)
    found = discover(sources, out)
    files = found.files
    shards = plan(files, config.files_per_shard)
    if overwrite:
        find_room("curation", needs(scoring_stages(config), config, engine))  # before anything is discarded
    clips = _open_tables(out, config, set(shards), overwrite)
    found.notes.write(out)
    found.notes.log()
    if retry_quarantined:
        forget_failures(out, [stage.name for stage in scoring_stages(config)])
    pending = clips.pending(shards)
    logger.info("%d files in %d shards, %d to do", len(files), len(shards), len(pending))
    if pending:
        predecessors = known_predecessors(out, shards, [stage.name for stage in scoring_stages(config)])
        to_do = {name: shards[name] for name in pending}
        stages = _left(to_do, out, config)
        dataset = pipeline(to_do, predecessors, out, config, stages, engine)
        with room("curation", needs(stages, config, engine)):
            for _ in run_shards(dataset, "curation", len(shards) - len(pending), len(shards), progress):
                pass  # what the stages find out goes to the tables
    if lost := clips.pending(shards):
        raise RuntimeError(
            f"{len(lost)} of {len(shards)} shards were lost: their workers died (out of memory, a lost node) or could "
            "not write, and Ray's log says which. The others are committed: run again to retry. "
            f"The first lost file is {shards[lost[0]][0].path}"
        )
    made_by = ["split", *(stage.name for stage in scoring_stages(config))]
    for table in (outcome_table(out, "videos"), *(stage_table(out, name) for name in made_by)):
        table.drop(set(table.shards()) - set(shards))
    outcome_table(out, "videos").finish(len(files))
    cut, texts = _count_inputs(out, config)
    outcome_table(out, "captions").finish(texts)
    if not clips.finish(cut).ok:
        logger.warning("no clip is kept: `mimir curate report %s` says why", out)
    return summarise(out, len(shards) - len(pending), time.monotonic() - start, found.notes.lines())


def pipeline(
    shards: dict[str, list[SourceFile]],
    predecessors: dict[str, list[str]],
    out: str,
    config: CurationConfig,
    stages: Sequence[ScoringStage],
    engine: Callable[[TextEngineConfig], TextEngine],
) -> "Dataset":
    """The whole of curation: one row a shard through every stage; what they find out goes straight to `out`.

    `predecessors` are the shards that each one may inherit from, `stages` those that have something left to do.

    Raises UserError for an engine that is needed and not there.
    """
    import ray.data

    # A CPU for decoding and optical flow, which run on one thread. Ray fuses neighbours that ask for the same.
    cpu: Any = {"num_cpus": config.cpus_per_task, "max_retries": config.max_retries}
    rules, names = Rules.of(config), [stage.name for stage in scoring_stages(config)]
    dataset: Dataset = ray.data.from_items(
        [
            {"shard": name, "files": pickle.dumps(files), "predecessors": predecessors[name]}
            for name, files in shards.items()
        ],
        override_num_blocks=len(shards),  # a task for each shard, so the work is even and a crash costs one shard
    )
    dataset = map_tasks(dataset, "split", partial(split, out=out, config=config), **cpu)  # files -> clips; 1 shard -> 1
    for stage in stages:  # clips -> scores
        common: Any = {"out": out, "stage": stage, "before": names[: names.index(stage.name)], "rules": rules}
        if not stage.costly:
            dataset = map_tasks(dataset, stage.name, load_score(**common), **cpu)
        elif stage.pool:
            dataset = map_actors(dataset, stage.name, partial(load_score, **common), **stage.pool.reserved)
        elif stage.asked:  # 1 shard -> its clips -> 1 shard
            asking, collector = partial(ask, **common), partial(ScoreCollector, out, stage)
            dataset = through_engine(dataset, stage.name, engine(stage.asked.engine), asking, collector, **cpu)
    verdicts = partial(judge, out=out, stages=names, rules=rules)
    dataset = map_tasks(dataset, "judge", verdicts, **cpu)  # scores -> verdicts
    dataset.context.max_errored_blocks = -1  # a lost shard stays pending and is reported when all others are committed
    return dataset


def needs(
    stages: Sequence[ScoringStage],
    config: CurationConfig,
    engine: Callable[[TextEngineConfig], TextEngine] = vllm_engine,
) -> list[Need]:
    """What these stages hold at once: the actors of all of them, and one task beside them; of an engine of others
    nothing is known."""
    found = [Need("curation", cpus=config.cpus_per_task, fields=("", "cpus_per_task", ""))]
    for stage in stages:
        if stage.pool:
            found.append(stage.pool.need(f"curation.pools.{stage.name}"))
        elif stage.asked and engine is vllm_engine:
            found.append(stage.asked.engine.pool.need(f"curation.pools.{stage.name}_vllm"))
    return found


def _left(shards: Iterable[str], out: str, config: CurationConfig) -> list[ScoringStage]:
    """The stages but for those with a model and nothing to do: their actors and GPUs are not even asked for."""
    left, before, rules = list[ScoringStage](), list[str](), Rules.of(config)
    for stage in scoring_stages(config):
        tables = [stage_table(out, name) for name in (*before, "split", stage.name)]
        looked = partial(unscored, out=out, stage=stage, before=tuple(before), rules=rules)
        if not stage.costly or any(table.pending(shards) for table in tables) or any(ahead(looked, shards)):
            left.append(stage)
        before.append(stage.name)
    return left


def _open_tables(out: str, config: CurationConfig, shards: set[str], overwrite: bool) -> Table:
    """Begin every table of the run, the last of which is returned.

    Shards whose files are gone are dropped, but for what the shards in their place may inherit.
    """
    split_key, stages = SplitKey(limits=config.limits, split=config.split), scoring_stages(config)
    keys: dict[Table, Config] = {stage_table(out, stage.name): stage.key for stage in reversed(stages)}
    keys |= {stage_table(out, "split"): split_key, outcome_table(out, "videos"): split_key}
    made_with = dict.fromkeys(MODEL_STAGES, "off") | {stage.name: fingerprint(stage.key) for stage in stages}
    verdict = VerdictKey(rules=Rules.of(config), split=split_key, stages=made_with)
    for table, key in keys.items():
        table.begin(key, overwrite)
    for name in ("clips", "captions"):
        outcome_table(out, name).begin(verdict, overwrite=True)
    clips = outcome_table(out, "clips")
    if gone := set(clips.shards()) - shards:
        logger.warning("dropping %d shards of files that have changed or are no longer among the sources", len(gone))
    whole = set(clips.shards()).intersection(*(table.shards() for table in keys))
    clips.drop(set(clips.shards()) - whole)  # judged by what is gone
    for table in (clips, outcome_table(out, "captions")):
        table.drop(set(table.shards()) - shards)
    return clips


def _count_inputs(out: str, config: CurationConfig) -> tuple[int, int]:
    """Clips and captions that there must be at the end, as the stages that make them made them."""
    clips = captions = 0
    for rows in stage_table(out, "split").scan(["captions"]):
        clips += len(rows)
        captions += pc.sum(pc.list_value_length(rows["captions"])).as_py() or 0
    if config.recaption != "off":
        for rows in stage_table(out, "recaption").scan(["recaption"]):
            captions += pc.sum(pc.greater(pc.utf8_length(rows["recaption"]), 0)).as_py() or 0
    return clips, captions
