"""What is done to a shard, stage after stage. Each function is safe to repeat, and only names pass between them.

`split` finds the clips and measures them on the way, every stage of `scoring_stages` scores them, and `judge` alone
applies thresholds.
"""

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from mimir_ray.config import Config, UserError
from mimir_ray.curation.config import AgreementConfig, CurationConfig, Measures, RecaptionConfig, WatermarkConfig
from mimir_ray.curation.models.config import LIKELIEST_TOKENS
from mimir_ray.curation.reuse import inherit, known_files, known_scores
from mimir_ray.curation.rules import Rules, shortfalls
from mimir_ray.curation.sources import SourceFile
from mimir_ray.curation.split import failure, split_files
from mimir_ray.curation.tables import ClipScorer, commit, known_clips, outcome_table, rows_of, stage_table
from mimir_ray.curation.verdict import caption_rows, verdict
from mimir_ray.dataflow import ActorPool, Row, Work
from mimir_ray.vllm import TextEngineConfig

if TYPE_CHECKING:
    from mimir_ray.curation.models.questions import ClipQuestion


@dataclass(frozen=True)
class ScoringStage:
    """A step that gives clips scores."""

    name: str
    key: Config
    """All that decides the scores: another one makes another table."""
    load: Callable[[], ClipScorer]
    """Makes the scorer, in the worker that uses it."""
    pool: ActorPool | None = None
    """The actors that hold its model. A stage without them, or an engine, runs in tasks."""
    asked: "Asked | None" = None
    """The engine that answers it, in place of actors."""

    @property
    def costly(self) -> bool:
        """Whether it has a model, and so passes over clips that fall short of a rule by their scores so far."""
        return self.pool is not None or self.asked is not None


@dataclass(frozen=True)
class Asked:
    """An engine beside the pipeline, and what it is asked."""

    engine: TextEngineConfig
    load: Callable[[], "ClipQuestion"]


class MeasureKey(Config):
    """What decides the scores of `measure`."""

    measures: Measures


class AgreementKey(Config):
    """What decides the scores of `agreement`: also which captions there are."""

    agreement: AgreementConfig
    recaption: RecaptionConfig | Literal["off"]


MODEL_STAGES = ("aesthetic", "text_area", "watermark", "recaption", "agreement")
"""The stages with a model in the paper's order; each is a section of `CurationConfig`."""


def scoring_stages(config: CurationConfig) -> tuple[ScoringStage, ...]:
    """The stages that `config` runs, in the paper's order."""
    found = [ScoringStage("measure", MeasureKey(measures=config.measures), partial(_measuring, config))]
    for name in MODEL_STAGES:
        if (key := getattr(config, name)) != "off":
            load = partial(_modelling, name, config)
            if getattr(key, "engine", None) == "vllm":
                asked = Asked(_engine(name, key, config), partial(_questioning, name, config))
                found.append(ScoringStage(name, key, load, asked=asked))
            else:
                if name == "agreement":
                    key = AgreementKey(agreement=key, recaption=config.recaption)
                found.append(ScoringStage(name, key, load, getattr(config.pools, name)))
    return tuple(found)


def _engine(name: str, asked: WatermarkConfig | RecaptionConfig, config: CurationConfig) -> TextEngineConfig:
    return TextEngineConfig(
        model=asked.vlm.name,
        revision=asked.vlm.revision,
        dtype=asked.vlm.dtype,
        images=asked.frames,
        logprobs=LIKELIEST_TOKENS if name == "watermark" else 0,
        pool=getattr(config.pools, f"{name}_vllm"),
    )


def split(row: Row, out: str, config: CurationConfig) -> Row:
    """Commit the shard's files to `videos`, their clips and what was measured on the way to the tables of those stages,
    and other scores that are known of them. A file of which this shard, or a predecessor, tells is not watched again.
    """
    shard, predecessors, table = row["shard"], list(row["predecessors"]), stage_table(out, "split")
    files: list[SourceFile] = pickle.loads(row["files"])
    if not table.has(shard) or len(outcome_table(out, "videos").read(shard, ["status"])) < len(files):
        made = split_files(files, config, known_files(out, [*predecessors, shard]))
        scores = {score["clip_id"]: score for score in made.scores}
        scores |= known_scores(out, "measure", [*predecessors, shard], {clip["clip_id"] for clip in made.clips})
        commit(stage_table(out, "measure"), shard, scores.values())
        commit(outcome_table(out, "videos"), shard, made.videos)
        commit(table, shard, made.clips)
    inherit(out, shard, predecessors, [stage.name for stage in scoring_stages(config)])
    return {"shard": shard}


def unscored(shard: str, out: str, stage: ScoringStage, before: Sequence[str], rules: Rules) -> list[Row]:
    """The clips of a shard that the stage should score and has not, with all that the stages before it found out."""
    table = stage_table(out, stage.name)
    there = set(table.read(shard, ["clip_id"])["clip_id"].to_pylist()) if table.has(shard) else set()
    clips = [clip for clip in known_clips(out, shard, before) if clip["clip_id"] not in there]
    return [clip for clip in clips if clip["status"] == "ok" and not (stage.costly and shortfalls(clip, rules))]


def score(row: Row, out: str, stage: ScoringStage, before: Sequence[str], rules: Rules, scorer: ClipScorer) -> Row:
    """Commit scores for the clips of the shard that have none yet; those there are stay."""
    shard, table = row["shard"], stage_table(out, stage.name)
    clips = unscored(shard, out, stage, before, rules)
    committed = table.has(shard)
    if clips or not committed:
        done = rows_of(table, shard) if committed else []
        batches = _batches(clips, stage.pool.batch) if stage.pool else _by_file(clips)
        scored = [scored for batch in batches for scored in _scored(batch, stage, scorer)]
        if stage.pool:
            _release()
        commit(table, shard, [*done, *scored])
    return {"shard": shard}


def _batches(clips: Sequence[Row], size: int) -> list[Sequence[Row]]:
    return [clips[start : start + size] for start in range(0, len(clips), size)]


def _by_file(clips: Sequence[Row]) -> list[Sequence[Row]]:
    return [list(members) for _, members in groupby(clips, key=lambda clip: str(clip["path"]))]


def load_score(out: str, stage: ScoringStage, before: Sequence[str], rules: Rules) -> Work:
    """`score` with a scorer that is loaded once."""
    return partial(score, out=out, stage=stage, before=before, rules=rules, scorer=stage.load())


def judge(row: Row, out: str, stages: Sequence[str], rules: Rules) -> Row:
    """Commit the verdicts of the shard to `captions` and `clips`; returns counts by status."""
    shard = row["shard"]
    clips: list[Row] = []
    captions: list[Row] = []
    for clip in known_clips(out, shard, stages):
        judged = caption_rows(clip, rules.captions, stages)
        outcome = clip | verdict(clip, judged, rules, stages)
        clips.append(outcome)
        captions.extend(caption if outcome["status"] == "ok" else caption | _of(outcome) for caption in judged)
    commit(outcome_table(out, "captions"), shard, captions)
    commit(outcome_table(out, "clips"), shard, clips)
    statuses = [clip["status"] for clip in clips]
    return {"shard": shard, **{status: statuses.count(status) for status in ("ok", "rejected", "quarantined")}}


def _of(clip: Row) -> Row:
    """What the caption of a clip that is not kept says of itself."""
    return {name: clip[name] for name in ("status", "reason", "rule")}


def _measuring(config: CurationConfig) -> ClipScorer:
    from mimir_ray.curation.measure import measure_clips

    return partial(measure_clips, config=config)


def _modelling(name: str, config: CurationConfig) -> ClipScorer:
    import torch

    from mimir_ray.curation.models.scorers import load_scorer

    torch.set_num_threads(1)  # there are other actors on the machine, and threads that wait for each other spin
    return load_scorer(name, config)


def _release() -> None:
    from mimir_ray.curation.models.scorers import release

    release()


def _questioning(name: str, config: CurationConfig) -> "ClipQuestion":
    from mimir_ray.curation.models.questions import load_question

    return load_question(name, config)


def _scored(clips: Sequence[Row], stage: ScoringStage, scorer: ClipScorer) -> Iterator[Row]:
    """A row a clip. A batch that fails is taken apart, so that one clip's failure is no other one's."""
    began_s = time.perf_counter()
    try:
        outcomes = [{"status": "ok", "reason": ""} | found for found in scorer(clips)]
    except UserError:  # a model or a setting that fits no clip at all
        raise
    except Exception as error:
        if len(clips) > 1:
            for clip in clips:
                yield from _scored([clip], stage, scorer)
            return
        outcomes = [failure(stage.name, error, clips[0]["path"])]
    seconds = (time.perf_counter() - began_s) / len(clips)
    for clip, outcome in zip(clips, outcomes, strict=True):
        yield {"clip_id": clip["clip_id"], "seconds": seconds} | outcome
