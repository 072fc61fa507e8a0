"""Which captions are kept: repetition, agreement with the clip, and a table of rules written by people. No model."""

import re
from collections import Counter

from pydantic import Field, field_validator

from mimir_ray.config import Config
from mimir_ray.curation.shortfall import Shortfall, shown
from mimir_ray.records import CaptionKind

PATTERNS: tuple[tuple[str, str], ...] = (
    # A rule's name, and what breaks it: a regular expression that is found in the caption, whatever the case.
    ("empty", r"\A\s*\Z"),
    ("not_text", r"[\ufffd\ud800-\udfff]"),  # decoded from bytes that were not UTF-8
    ("control_characters", r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
    ("chat_marks", r"<\|\w+\|>|</?s>|\[/?INST\]|\A\s*(?:user|assistant|system)\s*:"),
    ("refusal", r"\bI(?:['’]m| am) (?:sorry|unable|not able)\b|\bI (?:can(?:['’]t|not| not)|apologi[sz]e)\b"),
    ("refusal", r"\bas an? (?:AI|artificial intelligence|(?:large )?language model)\b"),
    (
        "about_the_picture",
        r"\b(?:the|this|these|an?) (?:images?|pictures?|photos?|photographs?|screenshots?)"
        r" (?:shows?|depicts?|features?|displays?|presents?|captures?|contains?|is|are)\b",
    ),
    ("about_the_picture", r"\b(?:in|from) (?:the|this|these|each) (?:images?|pictures?|photos?|frames?)\b"),
    ("about_the_picture", r"\b(?:first|second|third|next|last|final) (?:image|frame)s?\b"),
    ("echo_of_the_prompt", r"\bdescribe the video\b|\bin one paragraph\b"),
    ("web_address", r"https?://|\bwww\."),
    ("cut_off", r"[^\s.!?…\"'”’)\]。！？]\s*\Z"),
)


class CaptionRules(Config):
    """Caption filtration: limits of appendix A on repetition and agreement, and rules written by people."""

    kinds: tuple[CaptionKind, ...] = ("long",)
    """Captions that are judged; the others pass. A clip all of whose judged captions fall short is rejected."""

    max_repeated_2grams: float = Field(0.056, ge=0, le=1)
    """Share of the 2-grams that occur more than once, as `repeated_share` counts it."""
    max_repeated_5grams: float = Field(0.047, ge=0, le=1)
    max_repeated_10grams: float = Field(0.045, ge=0, le=1)
    min_clip_score: float = Field(0.25, ge=-1, le=1)
    """Cosine of caption and frames."""
    min_words: int = Field(5, ge=0)
    patterns: tuple[tuple[str, str], ...] = PATTERNS
    """(name, regular expression); a caption in which one is found, in upper or lower case, is excluded. Given, they
    replace the table."""

    @field_validator("patterns")
    @classmethod
    def _compiles(cls, patterns: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for name, pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name}: {pattern!r} is no regular expression: {error}; mend it") from None
        return patterns


def caption_shortfalls(text: str, config: CaptionRules, clip_score: float | None) -> list[Shortfall]:
    """Every rule that a caption falls short of, written rules first; none means that it is kept.

    Without a ``clip_score`` its rule is not looked at: the others are free, so they can spare captions the model.
    """
    found = [_broken(name, pattern, text) for name, pattern in config.patterns]
    words = words_of(text)
    if len(words) < config.min_words:
        reason = f"has {len(words)} words, at least {config.min_words} are needed"
        found.append(Shortfall(rule="words", reason=reason, value=len(words), limit=config.min_words))
    limits = {2: config.max_repeated_2grams, 5: config.max_repeated_5grams, 10: config.max_repeated_10grams}
    found.extend(_repetition(words, n, limit) for n, limit in limits.items())
    if clip_score is not None and clip_score < config.min_clip_score:
        found.append(
            Shortfall(
                rule="clip_score",
                value=clip_score,
                limit=config.min_clip_score,
                reason=f"does not fit the clip: CLIP score {shown(clip_score, config.min_clip_score)}, "
                f"at least {config.min_clip_score:g} is needed",
            )
        )
    return [shortfall for shortfall in found if shortfall]


def repeated_share(words: list[str], n: int) -> float:
    """Occurrences of n-grams that occur more than once, over all occurrences; 0 for fewer than ``n`` words."""
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    return sum(count for count in counts.values() if count > 1) / max(1, counts.total())


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation, so that "dog" and "Dog." are one. Made for scripts that space words."""
    return re.findall(r"\w+(?:['’-]\w+)*", text.lower())


def _broken(name: str, pattern: str, text: str) -> Shortfall | None:
    match = re.search(pattern, text, re.IGNORECASE)
    if match is None:
        return None
    found = match[0] if len(match[0]) <= 60 else match[0][:57] + "..."
    return Shortfall(rule=name, reason=f"breaks the rule {name}: {found!a} is not allowed")


def _repetition(words: list[str], n: int, limit: float) -> Shortfall | None:
    share = repeated_share(words, n)
    if share <= limit:
        return None
    return Shortfall(
        rule=f"repeated_{n}grams",
        value=share,
        limit=limit,
        reason=f"repeats itself: {shown(share, limit)} of its {n}-grams occur more than once, "
        f"at most {limit:g} is allowed",
    )
