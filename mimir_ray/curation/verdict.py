"""What becomes of a clip and of its captions, from all that is known about them."""

from collections.abc import Sequence
from typing import Literal

from mimir_ray.curation.caption_rules import caption_shortfalls
from mimir_ray.curation.captions import captions_of
from mimir_ray.curation.config import CaptionRules
from mimir_ray.curation.rules import Rules, Shortfall, is_number, missing, shortfalls
from mimir_ray.curation.sources.file import NOT_TEXT
from mimir_ray.dataflow import Row


def caption_rows(clip: Row, rules: CaptionRules | Literal["off"], stages: Sequence[str]) -> list[Row]:
    """Rows of `captions` for a clip that `stages` have scored, each judged by itself.

    What is not text is rejected whatever the rules are. A caption that falls short of no rule but lacks the score
    that `agreement` should have given is quarantined.
    """
    captions = captions_of(clip)
    scores: Sequence[float | None] = clip.get("caption_scores") or []
    if len(scores) != len(captions):  # of other captions
        scores = [None] * len(captions)
    rows: list[Row] = []
    for caption, given in zip(captions, scores, strict=True):
        score = given if is_number(given) else None
        row = {"clip_id": clip["clip_id"], "clip_score": score, "rule": "", "status": "ok", "reason": ""} | caption
        if NOT_TEXT.search(caption["text"]):
            reason = "has marks (U+FFFD) in place of what was not UTF-8: save the file that it comes from as UTF-8"
            row |= {"status": "rejected", "rule": "not_text", "reason": reason}
        elif rules != "off" and caption["kind"] in rules.kinds:
            if missed := caption_shortfalls(caption["text"], rules, score)[:1]:
                row |= {"status": "rejected", "rule": missed[0].rule, "reason": missed[0].reason}
            elif score is None and "agreement" in stages:
                row |= _unscored("agreement", "clip_score")
        rows.append(row)
    return rows


def verdict(clip: Row, captions: Sequence[Row], rules: Rules, stages: Sequence[str]) -> Row:
    """The columns of `clips` that say whether a clip that `stages` have scored is kept, and why not.

    That is the first rule that it falls short of. A clip that falls short of none, but lacks the score of a rule whose
    stage was to score it, is quarantined: nothing passes for want of a score. A clip none of whose judged captions is
    left is rejected for what is wrong with the first one, or quarantined with one that could not be judged.
    """
    if clip["status"] != "ok":
        return {"rule": ""}
    for missed in shortfalls(clip, rules)[:1]:
        return _rejected(missed)
    for stage in ("split", *stages):
        if stage != "agreement" and (score := missing(clip, stage)):
            return _unscored(stage, score)
    if rules.captions != "off":
        judged = [caption for caption in captions if caption["kind"] in rules.captions.kinds]
        if judged and all(caption["status"] != "ok" for caption in judged):
            if any(caption["status"] == "quarantined" for caption in judged):
                return _unscored("agreement", "clip_score")
            reason = f"no caption is left: the {judged[0]['kind']} one {judged[0]['reason']}"
            return _rejected(Shortfall(rule=judged[0]["rule"], reason=reason))
    return {"rule": ""}


def _unscored(stage: str, score: str) -> Row:
    reason = f"{stage}: gave no number as {score}, which a rule needs; --retry-quarantined tries again"
    return {"status": "quarantined", "rule": "", "reason": reason, "stage": stage, "error": "NoScore"}


def _rejected(missed: Shortfall) -> Row:
    limits = {"rule": missed.rule, "value": missed.value, "limit": missed.limit}
    return limits | {"status": "rejected", "reason": missed.reason}
