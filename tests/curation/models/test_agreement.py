"""CLIP score: cosines of transformers' own features, sentence by sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from mimir_ray.curation.models.agreement import Agreement, sentences
from mimir_ray.curation.models.config import AgreementConfig, Checkpoint
from mimir_ray.curation.models.loading import Frames, images
from tests.curation.models.tiny import CLIP_TOKENS, tiny_clip

FRAMES: Frames = np.random.default_rng(1).integers(0, 256, (3, 40, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Agreement:
    path = tiny_clip(tmp_path_factory.mktemp("agreement") / "clip")
    return Agreement(AgreementConfig(clip=Checkpoint(name=str(path), device="cpu")))


def direct(scorer: Agreement, text: str) -> float:
    """Mean cosine of one text and the frames, from a plain forward pass."""
    path = Path(scorer.clip.model.name_or_path)
    model = CLIPModel.from_pretrained(path).eval()
    tokens = AutoTokenizer.from_pretrained(path)(text, return_tensors="pt")
    pixels = CLIPImageProcessorPil.from_pretrained(path)(images(FRAMES), return_tensors="pt")
    with torch.no_grad():
        cosines = model(**tokens, **pixels).logits_per_image / model.logit_scale.exp()
    return float(cosines.mean())


def test_one_sentence_is_the_cosine_without_the_logit_scale(scorer: Agreement) -> None:
    assert scorer(FRAMES, "a dog.") == pytest.approx(direct(scorer, "a dog."), abs=1e-6)


def test_sentences_are_scored_each_and_averaged(scorer: Agreement) -> None:
    parts = ["a dog.", "the sea!", "who runs?"]
    scores = [direct(scorer, part) for part in parts]
    assert max(scores) - min(scores) > 1e-3
    assert scorer(FRAMES, " ".join(parts)) == pytest.approx(np.mean(scores), abs=1e-6)


@pytest.mark.parametrize(
    ("letters", "lengths"), [(1, [1]), (9, [9]), (10, [10]), (11, [6, 5]), (20, [10, 10]), (21, [7, 7, 7])]
)
def test_a_long_sentence_becomes_even_pieces_that_lose_nothing(
    scorer: Agreement, letters: int, lengths: list[int]
) -> None:
    text = "abcdefghijklmnopqrstuvwxyz"[:letters]
    pieces = scorer.clip.pieces(text)
    assert [len(piece) - 2 for piece in pieces] == lengths
    assert max(map(len, pieces)) <= scorer.clip.max_tokens == CLIP_TOKENS
    assert [token for piece in pieces for token in piece[1:-1]] == list(range(letters))
    assert all(piece[0] == 31 and piece[-1] == 32 for piece in pieces)


def test_pieces_are_scored_each_and_averaged(scorer: Agreement) -> None:
    scores = [direct(scorer, piece) for piece in ("abcdef", "ghijk")]
    assert scorer(FRAMES, "abcdefghijk") == pytest.approx(np.mean(scores), abs=1e-6)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("  A ball of 1.5 m rolls\n\nand stops  ", ["A ball of 1.5 m rolls", "and stops"]),
        ("一只狗。海！", ["一只狗。", "海！"]),
        (" \n ", []),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_an_empty_caption_is_refused(scorer: Agreement) -> None:
    with pytest.raises(ValueError, match="the caption is empty"):
        scorer(FRAMES, " ")


def test_numbers_that_do_not_fit_are_no_score(scorer: Agreement) -> None:
    overflowing = Agreement(AgreementConfig(clip=scorer.clip.checkpoint))
    with torch.no_grad():
        overflowing.clip.model.visual_projection.weight.fill_(torch.inf)
    with pytest.raises(ValueError, match="computes NaN of this clip"):
        overflowing(FRAMES, "a dog.")
