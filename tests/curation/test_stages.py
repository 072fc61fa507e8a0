"""What is done to a shard by a stage, without a model and without Ray."""

from collections.abc import Sequence
from pathlib import Path

from mimir_ray.curation import CurationConfig
from mimir_ray.curation.rules import Rules
from mimir_ray.curation.stages import ScoringStage, score
from mimir_ray.curation.tables import commit, rows_of, stage_table
from mimir_ray.dataflow import Row

RULES = Rules.of(CurationConfig())


def scorer(clips: Sequence[Row]) -> list[Row]:
    """Fails on a whole batch for one clip in it."""
    if any(clip["clip_id"] == "broken" for clip in clips):
        raise ValueError("no such luck")
    return [{"brightness": 0.5} for _ in clips]


def test_a_clip_that_a_stage_fails_on_is_quarantined_alone(tmp_path: Path) -> None:
    out, ids = str(tmp_path), ["first", "broken", "last"]
    fine = {"path": str(tmp_path / "film.mp4"), "status": "ok", "reason": ""}
    commit(stage_table(out, "split"), "s", [fine | {"clip_id": clip_id} for clip_id in ids])
    score({"shard": "s"}, out, ScoringStage("measure", RULES, lambda: scorer), [], RULES, scorer)
    first, broken, last = rows_of(stage_table(out, "measure"), "s")
    assert [row["clip_id"] for row in (first, broken, last)] == ids
    assert (first["status"], first["brightness"]) == (last["status"], last["brightness"]) == ("ok", 0.5)
    assert (broken["status"], broken["brightness"], broken["error"]) == ("quarantined", None, "ValueError")
    assert "no such luck" in broken["reason"]
