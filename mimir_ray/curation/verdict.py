"""What becomes of a clip and of its captions, from all that is known about them."""

from collections.abc import Sequence
from typing import Literal

from mimir_ray.curation.caption_rules import CaptionRules, caption_shortfalls
from mimir_ray.curation.captions import captions_of
from mimir_ray.curation.rules import Rules, shortfalls
from mimir_ray.curation.shortfall import Shortfall
from mimir_ray.curation.sources.file import NOT_TEXT
from mimir_ray.curation.tables import Row


def caption_rows(clip: Row, rules: CaptionRules | Literal["off"]) -> list[Row]:
    """Rows of `captions` for a clip, each judged by itself. What is not text is rejected whatever the rules are."""
    captions = captions_of(clip)
    scores = clip.get("caption_scores") or [None] * len(captions)
    rows: list[Row] = []
    for caption, score in zip(captions, scores, strict=True):
        row = {"clip_id": clip["clip_id"], "clip_score": score, "rule": "", "status": "ok", "reason": ""} | caption
        if NOT_TEXT.search(caption["text"]):
            reason = "has marks (U+FFFD) in place of what was not UTF-8: save the file that it comes from as UTF-8"
            row |= {"status": "rejected", "rule": "not_text", "reason": reason}
        elif rules != "off" and caption["kind"] in rules.kinds:
            for missed in caption_shortfalls(caption["text"], rules, score)[:1]:
                row |= {"status": "rejected", "rule": missed.rule, "reason": missed.reason}
        rows.append(row)
    return rows


def verdict(clip: Row, captions: Sequence[Row], rules: Rules) -> Row:
    """The columns of `clips` that say whether the clip is kept, and why not: the first rule that it falls short of.

    A clip all of whose judged captions fall short is rejected for what is wrong with the first one.
    """
    if clip["status"] != "ok":
        return {"rule": ""}
    for missed in shortfalls(clip, rules)[:1]:
        return _rejected(missed)
    if rules.captions != "off":
        judged = [caption for caption in captions if caption["kind"] in rules.captions.kinds]
        if judged and all(caption["status"] == "rejected" for caption in judged):
            reason = f"no caption is left: the {judged[0]['kind']} one {judged[0]['reason']}"
            return _rejected(Shortfall(rule=judged[0]["rule"], reason=reason))
    return {"rule": ""}


def _rejected(missed: Shortfall) -> Row:
    limits = {"rule": missed.rule, "value": missed.value, "limit": missed.limit}
    return limits | {"status": "rejected", "reason": missed.reason}
