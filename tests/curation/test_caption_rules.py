"""Every rule for captions just under, at and just over its limit, and the table of written rules."""

import math

import pytest

from mimir_ray.config import UserError, override
from mimir_ray.curation.caption_rules import caption_shortfalls, repeated_share, words_of
from mimir_ray.curation.config import CaptionRules

RULES = CaptionRules()
GOOD = "A brown dog runs over wet sand while two children throw a red ball; the sea behind them is calm."


def broken(text: str, rules: CaptionRules = RULES, clip_score: float | None = None) -> dict[str, str]:
    return {shortfall.rule: shortfall.reason for shortfall in caption_shortfalls(text, rules, clip_score)}


def repeating(n: int, grams: int, repeated: int) -> str:
    """A caption of ``grams`` n-grams, of which ``repeated`` (two spans of ``repeated / 2``) occur twice."""
    span = repeated // 2 + n - 1
    words = [f"w{i}" for i in range(grams + n - 1 - span)]
    return " ".join([*words[:span], *words[span:], *words[:span]]) + "."


def test_a_good_caption_passes() -> None:
    assert broken(GOOD, clip_score=0.3) == {}


@pytest.mark.parametrize(
    ("n", "grams", "at", "reason"),
    [
        (2, 250, 14, "0.06 of its 2-grams occur more than once, at most 0.056 is allowed"),
        (5, 2000, 94, "0.05 of its 5-grams occur more than once, at most 0.047 is allowed"),
        (10, 400, 18, "0.05 of its 10-grams occur more than once, at most 0.045 is allowed"),
    ],
)
def test_repetition_under_at_and_over_the_limit(n: int, grams: int, at: int, reason: str) -> None:
    rule = f"repeated_{n}grams"
    for repeated in (0, at - 2, at):
        text = repeating(n, grams, repeated)
        assert repeated_share(words_of(text), n) == repeated / grams
        assert rule not in broken(text)
    assert broken(repeating(n, grams, at + 2))[rule] == f"repeats itself: {reason}"


def test_the_share_counts_every_occurrence_of_what_occurs_twice() -> None:
    assert repeated_share(["a", "b", "a", "b", "a"], 2) == 1  # ab twice, ba twice
    assert repeated_share(["a", "b", "c", "a", "b"], 2) == 2 / 4
    assert repeated_share(["a", "a", "a", "b"], 1) == 3 / 4


@pytest.mark.parametrize("words", [[], ["a"], ["a"] * 9])
def test_a_text_shorter_than_n_repeats_nothing(words: list[str]) -> None:
    assert repeated_share(words, 10) == 0


def test_case_and_punctuation_hide_no_repetition() -> None:
    assert words_of("The dog's ball. THE dog's, ball! (well-known)") == [
        *("the", "dog's", "ball", "the", "dog's", "ball", "well-known")
    ]


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (None, ""),
        (0.26, ""),
        (0.25, ""),
        (math.nextafter(0.25, 0), "does not fit the clip: CLIP score 0.24999999999999997, at least 0.25 is needed"),
        (0.24, "does not fit the clip: CLIP score 0.24, at least 0.25 is needed"),
        (-0.1, "does not fit the clip: CLIP score -0.10, at least 0.25 is needed"),
    ],
)
def test_clip_score(score: float | None, reason: str) -> None:
    assert broken(GOOD, clip_score=score) == ({"clip_score": reason} if reason else {})


@pytest.mark.parametrize(("words", "kept"), [(4, False), (5, True), (6, True)])
def test_words(words: int, kept: bool) -> None:
    text = " ".join(["A", "black", "cat", "sleeps", "very", "deeply"][:words]) + "."
    assert broken(text) == ({} if kept else {"words": "has 4 words, at least 5 are needed"})


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("A man walks a d\ufffdg along the river.", "not_text"),
        ("A man walks a dog\x00 along the river.", "control_characters"),
        ("A man walks a dog along the river.<|im_end|>", "chat_marks"),
        ("Assistant: a man walks a dog along the river.", "chat_marks"),
        ("I'm sorry, but nothing can be seen in it at all.", "refusal"),
        ("I’m unable to say what happens in this one.", "refusal"),
        ("Unfortunately I cannot describe what happens there.", "refusal"),
        ("As an AI language model, no video is visible to me.", "refusal"),
        ("The image shows a man who walks a dog.", "about_the_picture"),
        ("THIS IMAGE DEPICTS A MAN WHO WALKS A DOG.", "about_the_picture"),
        ("A man walks a dog, and in the last frame it barks.", "about_the_picture"),
        ("Describe the video: a man walks a dog along the river.", "echo_of_the_prompt"),
        ("A man walks a dog, seen on www.example.com today.", "web_address"),
        ("A man walks a dog along the river and then the", "cut_off"),
        ("A man walks a dog along the river,", "cut_off"),
    ],
)
def test_written_rules(text: str, rule: str) -> None:
    assert rule in broken(text)
    assert broken(text)[rule].isascii()


def test_a_name_that_was_not_utf8_is_no_caption() -> None:
    text = b"A man walks a d\xe9g along the river.".decode(errors="surrogateescape")
    assert broken(text) == {"not_text": r"breaks the rule not_text: '\udce9' is not allowed"}


@pytest.mark.parametrize(
    "text",
    [
        "A painter hangs a picture frame on the wall beside a sorry little plant.",
        'A woman photographs an image of the sea, then says "I will come back."',
        "A carved sign reads “ASSISTANT”; two users sit below it and type.",
        "Une femme âgée traverse la rue sous la pluie, un parapluie à la main.",
        "A child writes <3 on a foggy window... and laughs!",
    ],
)
def test_written_rules_leave_ordinary_captions_alone(text: str) -> None:
    assert broken(text) == {}


def test_a_config_brings_its_own_table() -> None:
    rules = override(RULES, [r'patterns=[["brand", "\\bacme\\b"]]'])
    assert broken("An ACME lorry turns left at the lights", rules) == {
        "brand": "breaks the rule brand: 'ACME' is not allowed"
    }


def test_a_pattern_that_does_not_compile_is_refused() -> None:
    with pytest.raises(UserError, match=r"brand: '\(' is no regular expression: .*; mend it"):
        override(RULES, ['patterns=[["brand", "("]]'])
