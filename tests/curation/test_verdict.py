"""Nothing passes for want of a score: a clip or a caption that lacks one is quarantined."""

import math
from pathlib import Path
from typing import Any

import pytest

from mimir_ray.config import override
from mimir_ray.curation import CurationConfig
from mimir_ray.curation.config import CaptionRules
from mimir_ray.curation.rules import NEEDED, Rules
from mimir_ray.curation.stages import MODEL_STAGES, judge
from mimir_ray.curation.tables import commit, outcome_table, rows_of, stage_table
from mimir_ray.curation.verdict import caption_rows, verdict
from mimir_ray.dataflow import Row

STAGES = ("measure", *MODEL_STAGES)
CLIP: Row = {
    "clip_id": "a",
    "frames": 65,
    "duration_s": 4.0,
    "width_px": 64,
    "height_px": 64,
    "status": "ok",
    "reason": "",
    "hdr": False,
    "interlaced": False,
    "anamorphic": True,
    "rotated": False,
    "motion": 0.1,
    "black_area": 0.0,
    "brightness": 0.5,
    "black_frame_rate": 0.0,
    "aesthetic_mean": 5.0,
    "text_area": 0.0,
    "watermark_margin": -1.0,
    "captions": [{"kind": "long", "text": "A red square crosses the whole picture."}],
    "caption_scores": [0.3],
}
RULES = Rules.of(override(CurationConfig(), ["captions={}"]))
CAPTIONS = RULES.captions
UNRULED = Rules.of(CurationConfig())
SCORES = [
    (stage, "width_px" if score == "aspect" else score)
    for stage, scores in NEEDED.items()
    for score in scores
    if stage != "agreement"
]


def judged(clip: Row, rules: Rules = RULES, stages: tuple[str, ...] = STAGES) -> tuple[Row, list[Row]]:
    captions = caption_rows(clip, rules.captions, stages)
    return {"status": "ok"} | verdict(clip, captions, rules, stages), captions


def test_a_clip_with_every_score_is_kept() -> None:
    clip, captions = judged(CLIP)
    assert (clip["status"], captions[0]["status"], captions[0]["clip_score"]) == ("ok", "ok", 0.3)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "absent"])
@pytest.mark.parametrize(("stage", "score"), SCORES)
def test_a_clip_without_a_score_is_quarantined(stage: str, score: str, value: Any) -> None:
    clip = {name: given for name, given in CLIP.items() if name != score}
    if value != "absent":
        clip[score] = None if score == "width_px" and value is not None else value
    found, _ = judged(clip)
    assert (found["status"], found["stage"], found["rule"]) == ("quarantined", stage, "")
    assert found["reason"].startswith(f"{stage}: gave no number as ")


@pytest.mark.parametrize(("stage", "score"), [(stage, score) for stage, score in SCORES if stage in MODEL_STAGES])
def test_the_rules_of_a_stage_that_is_off_do_not_apply(stage: str, score: str) -> None:
    clip = {name: value for name, value in CLIP.items() if name != score}
    assert judged(clip, stages=tuple(name for name in STAGES if name != stage))[0]["status"] == "ok"


def test_a_clip_that_falls_short_is_rejected_whatever_it_lacks() -> None:
    found, _ = judged(CLIP | {"motion": 0.0, "aesthetic_mean": None, "caption_scores": None})
    assert (found["status"], found["rule"]) == ("rejected", "motion")


@pytest.mark.parametrize("scores", [None, [], [None], [math.nan], [0.3, 0.3]])
def test_a_caption_without_its_score_is_quarantined_and_so_is_its_clip(scores: list[float] | None) -> None:
    found, captions = judged(CLIP | {"caption_scores": scores})
    assert (captions[0]["status"], captions[0]["clip_score"]) == ("quarantined", None)
    assert (found["status"], found["stage"]) == ("quarantined", "agreement")
    without = judged(CLIP | {"caption_scores": scores}, stages=STAGES[:-1])
    assert (without[0]["status"], without[1][0]["status"]) == ("ok", "ok"), "no agreement was asked for"
    assert judged(CLIP | {"caption_scores": scores}, UNRULED)[0]["status"] == "ok", "and here no caption is judged"


def test_a_caption_that_falls_short_needs_no_score_and_one_that_is_left_is_enough() -> None:
    two = CLIP | {
        "captions": [{"kind": "long", "text": "Two words"}, {"kind": "long", "text": CLIP["captions"][0]["text"]}]
    }
    both = judged(two | {"caption_scores": [None, 0.3]})
    assert [caption["status"] for caption in both[1]] == ["rejected", "ok"]
    assert both[0]["status"] == "ok"
    none = judged(two | {"caption_scores": [None, None]})
    assert [caption["status"] for caption in none[1]] == ["rejected", "quarantined"]
    assert none[0]["status"] == "quarantined"
    assert isinstance(CAPTIONS, CaptionRules)


def test_the_captions_of_a_clip_share_its_fate(tmp_path: Path) -> None:
    out, scored = str(tmp_path), {"status": "ok", "reason": ""}
    told = {"still": {"motion": 0.0}, "unmeasured": {"motion": None}, "kept": {}}
    commit(stage_table(out, "split"), "s", [CLIP | {"clip_id": clip_id} for clip_id in told])
    commit(stage_table(out, "measure"), "s", [CLIP | scored | {"clip_id": name} | row for name, row in told.items()])
    assert judge({"shard": "s"}, out, ["measure"], UNRULED) == {"shard": "s", "ok": 1, "rejected": 1, "quarantined": 1}
    clips, captions = (rows_of(outcome_table(out, name), "s") for name in ("clips", "captions"))
    said = [{name: row[name] for name in ("clip_id", "status", "rule", "reason")} for row in clips]
    assert [{name: row[name] for name in ("clip_id", "status", "rule", "reason")} for row in captions] == said
    assert [row["status"] for row in clips] == ["rejected", "quarantined", "ok"]
