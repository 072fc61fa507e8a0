"""A stage whose model runs in an engine beside the pipeline: a shard becomes rows of clips, and their answers a shard.

1 shard -> its clips as prompts -> the engine -> scores, committed when the last has come -> 1 shard
"""

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from mimir_ray.config import UserError
from mimir_ray.curation.rules import Rules
from mimir_ray.curation.split import failure
from mimir_ray.curation.stages import ScoringStage, unscored
from mimir_ray.curation.tables import commit, rows_of, stage_table
from mimir_ray.dataflow import Row

if TYPE_CHECKING:
    from mimir_ray.curation.models.questions import ClipQuestion


def ask(row: Row, out: str, stage: ScoringStage, before: Sequence[str], rules: Rules) -> Iterator[Row]:
    """The unscored clips of a shard as rows of `mimir_ray.vllm`; a shard without any is a row that passes by.

    The same rows whenever it runs, until `ScoreCollector` commits the shard.
    """
    shard, table = row["shard"], stage_table(out, stage.name)
    clips = unscored(shard, out, stage, before, rules)
    there = len(rows_of(table, shard)) if table.has(shard) else 0
    common = {"shard": shard, "clips": there + len(clips)}
    if not clips:
        yield common | {"clip_id": "", "failed": "", "error": "nothing to ask"}
        return
    question = _question(stage)
    for clip in clips:
        asked: Row = {"failed": "", "error": ""}
        try:
            asked |= question.ask(clip)
        except UserError:  # a setting that fits no clip at all
            raise
        except Exception as error:  # one clip's failure is no other one's
            failed = failure(stage.name, error, clip["path"])
            asked |= {"failed": failed["error"], "error": failed["reason"]}
        yield common | {"clip_id": clip["clip_id"]} | asked


class ScoreCollector:
    """Takes answered rows one by one, and commits the scores of a shard and returns it with the last of its clips.

    A clip is accounted the time since the answer before its own: engines answer many clips at once, so that only the
    sum over the clips says how long the stage took.
    """

    def __init__(self, out: str, stage: ScoringStage) -> None:
        self._stage = stage
        self._table = stage_table(out, stage.name)
        self._scores: dict[str, dict[str, Row]] = {}
        self._last_s: float | None = None

    def __call__(self, row: Row) -> Row | None:
        """Take one row."""
        shard = row["shard"]
        if shard not in self._scores:
            committed = rows_of(self._table, shard) if self._table.has(shard) else []
            self._scores[shard] = {row["clip_id"]: row for row in committed}
        scores = self._scores[shard]
        if row["clip_id"] and row["clip_id"] not in scores:
            scores[row["clip_id"]] = {"clip_id": row["clip_id"], "seconds": self._seconds()} | self._outcome(row)
        if len(scores) < row["clips"]:
            return None
        commit(self._table, shard, scores.values())
        del self._scores[shard]
        return {"shard": shard}

    @cached_property
    def _question(self) -> "ClipQuestion":
        return _question(self._stage)

    def _seconds(self) -> float:
        now = time.perf_counter()
        since, self._last_s = now - (self._last_s or now), now
        return since

    def _outcome(self, row: Row) -> Row:
        name = self._stage.name
        if row["failed"]:
            return {"status": "quarantined", "reason": row["error"], "stage": name, "error": row["failed"]}
        if row["error"]:  # the class and the message, as the engine met them
            kind = row["error"].partition(":")[0]
            return {"status": "quarantined", "reason": f"{name}: {row['error']}"[:500], "stage": name, "error": kind}
        try:
            return self._question.read(row) | {"status": "ok", "reason": ""}
        except UserError:  # a processor that cannot be loaded is no fault of the clip
            raise
        except Exception as error:
            return failure(name, error, row["clip_id"])


def _question(stage: ScoringStage) -> "ClipQuestion":
    assert stage.asked is not None
    return stage.asked.load()
