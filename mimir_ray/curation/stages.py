"""What is done to a shard, stage after stage. Each function is safe to repeat, and only names pass between them.

`split` makes the clips, every stage of `scoring_stages` scores them, and `judge` alone applies thresholds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mimir_ray.config import Config
from mimir_ray.curation.config import CurationConfig, Measures
from mimir_ray.curation.discover import SourceFile
from mimir_ray.curation.rules import Rules, shortfalls
from mimir_ray.curation.split import failure, split_files
from mimir_ray.curation.tables import (
    SPLIT_SCHEMA,
    Row,
    commit,
    known_clips,
    outcome_table,
    rows_of,
    score_schema,
    stage_table,
)
from mimir_ray.records import SCHEMAS
from mimir_ray.storage import join

Scorer = Callable[[Row], Row]
"""From a clip's row to the columns of its score. What it raises puts that clip into quarantine."""


@dataclass(frozen=True)
class Stage:
    """A step that gives clips scores."""

    name: str
    columns: tuple[str, ...]
    """Of `clips`, that it fills."""
    key: Config
    """All that decides the scores: another one makes another table."""
    after_rules: bool
    """Whether clips that fall short of a rule by their scores so far are passed over, because scoring is dear."""


class MeasureKey(Config):
    """What decides the scores of `measure`."""

    measures: Measures


def scoring_stages(config: CurationConfig) -> tuple[Stage, ...]:
    """The stages that `config` runs, in the paper's order."""
    scores = ("motion", "black_area", "brightness", "black_frame_rate", "decoder")
    return (Stage("measure", scores, MeasureKey(measures=config.measures), after_rules=False),)


def split(row: dict[str, Any], out: str, config: CurationConfig) -> dict[str, Any]:
    """Commit the shard's files to `videos` and their clips to the table of the split stage."""
    shard, table = row["shard"], stage_table(out, "split")
    if table.pending([shard]):
        files = [SourceFile.unpacked(file) for file in row["files"]]
        videos, clips = split_files(files, config, join(out, "media"))
        commit(outcome_table(out, "videos"), shard, videos, SCHEMAS["videos"])
        commit(table, shard, clips, SPLIT_SCHEMA)
    return {"shard": shard}


def score(
    row: dict[str, Any], out: str, stage: Stage, before: Sequence[str], rules: Rules, scorer: Scorer
) -> dict[str, Any]:
    """Commit scores for the clips of the shard that have none yet; those there are stay."""
    shard, table = row["shard"], stage_table(out, stage.name)
    done = [] if table.pending([shard]) else rows_of(table, shard)
    there = {scored["clip_id"] for scored in done}
    clips = [clip for clip in known_clips(out, shard, before) if clip["clip_id"] not in there]
    clips = [clip for clip in clips if clip["status"] == "ok" and not (stage.after_rules and shortfalls(clip, rules))]
    if clips or table.pending([shard]):
        scored = [_scored(clip, stage, scorer) for clip in clips]
        commit(table, shard, [*done, *scored], score_schema(stage.columns))
    return {"shard": shard}


def judge(row: dict[str, Any], out: str, stages: Sequence[str], rules: Rules) -> dict[str, Any]:
    """Commit the verdicts of the shard to `captions` and `clips`; returns counts by status."""
    shard = row["shard"]
    clips = [clip | _verdict(clip, rules) for clip in known_clips(out, shard, stages)]
    captions = [
        {"clip_id": clip["clip_id"], "status": clip["status"], "reason": clip["reason"]} | caption
        for clip in clips
        for caption in clip["captions"]
    ]
    commit(outcome_table(out, "captions"), shard, captions, SCHEMAS["captions"])
    commit(outcome_table(out, "clips"), shard, clips, SCHEMAS["clips"])
    statuses = [clip["status"] for clip in clips]
    return {"shard": shard, **{status: statuses.count(status) for status in ("ok", "rejected", "quarantined")}}


def _verdict(clip: Row, rules: Rules) -> Row:
    if clip["status"] != "ok":
        return {"rule": ""}
    missed = next(iter(shortfalls(clip, rules)), None)
    if missed is None:
        return {"rule": ""}
    verdict = {"rule": missed.rule, "value": missed.value, "limit": missed.limit}
    return verdict | {"status": "rejected", "reason": missed.reason}


def _scored(clip: Row, stage: Stage, scorer: Scorer) -> Row:
    began_s = time.perf_counter()
    try:
        outcome = scorer(clip) | {"status": "ok", "reason": ""}
    except Exception as error:
        outcome = failure(stage.name, error, clip["path"])
    return {"clip_id": clip["clip_id"], "seconds": time.perf_counter() - began_s} | outcome
