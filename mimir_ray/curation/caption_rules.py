"""Which captions are kept: repetition, agreement with the clip, and a table of rules written by people. No model."""

import re
from collections import Counter

from mimir_ray.curation.config import CaptionRules
from mimir_ray.curation.rules import Shortfall, shown


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
