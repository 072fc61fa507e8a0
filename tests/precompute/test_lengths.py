"""Captions that the text encoder cuts: counted, said, and rejected where that is asked for."""

from collections.abc import Sequence

import pyarrow as pa
import pytest
import torch

from mimir_ray.config import override
from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute.components import load_t5, load_t5_tokenizer
from mimir_ray.precompute.encode import t5_rows
from mimir_ray.precompute.keys import table_keys
from mimir_ray.precompute.lengths import cut_captions
from tests.precompute.world import CONFIG, tiny_model

WORDS = "a red ball moves left"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_model(tmp_path_factory.mktemp("model"))


def table(*texts: str, status: str = "ok") -> pa.Table:
    return pa.table({"text": list(texts), "status": [status] * len(texts)})


class Letters:
    """A tokenizer with as many tokens as a text has characters, and an end."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def num_special_tokens_to_add(self) -> int:
        return 1

    def __call__(self, texts: Sequence[str], **_: object) -> "Letters":
        self.seen += texts
        self.input_ids = [[0] * (len(text) + 1) for text in texts]
        return self


def test_what_is_cut_is_counted_with_the_longest() -> None:
    exact, over, far = "x" * 9, "y" * 10, "z" * 30
    found = cut_captions([table(exact, over), table(far, over), table()], Letters(), 10)
    assert (found.limit, found.captions, found.longest, found.example) == (10, 3, 31, far)
    assert str(found).startswith(
        "captions cut to the 10 tokens that the text encoder reads: 3; the longest has 31 tokens"
    )
    assert far in str(found)
    assert len(str(cut_captions([table("z" * 4000)], Letters(), 10))) < 300
    nothing = cut_captions([table(exact), table(far, status="quarantined")], Letters(), 10)
    assert (nothing.captions, nothing.longest, nothing.example) == (0, 0, "")


def test_texts_that_are_surely_short_are_not_even_tokenized() -> None:
    letters = Letters()
    cut_captions([table("x" * 8, "y" * 9, "ﷺ")], letters, 10)  # the last one is 18 characters in another form
    assert letters.seen == ["y" * 9, "ﷺ"]


def test_long_captions_are_rejected_where_that_is_asked_for(model: ModelConfig) -> None:
    branch = load_t5(model, 0)
    limit = branch.max_length
    exact, over = " ".join(["red"] * (limit - 1)), " ".join(["red"] * (limit + 4))
    captions = [{"clip_id": str(n), "kind": "short", "text": text} for n, text in enumerate((WORDS, over, exact))]
    cut = t5_rows(captions, branch, CONFIG)
    assert [row["status"] for row in cut] == ["ok"] * 3
    assert cut_captions([pa.Table.from_pylist(cut)], load_t5_tokenizer(model), limit).longest == limit + 5
    encoded: list[str] = []
    encode = branch.encode

    def counted(texts: Sequence[str]) -> torch.Tensor:
        encoded.extend(texts)
        return encode(texts)

    branch.encode = counted
    rejecting = override(CONFIG, ["long_captions=reject"])
    rows = t5_rows(captions, branch, rejecting)
    assert [row["status"] for row in rows] == ["ok", "rejected", "ok"]
    assert f"has {limit + 5} text tokens; this model reads {limit}: shorten it by 5 tokens or more" in rows[1]["reason"]
    assert "precompute.long_captions=cut" in rows[1]["reason"]
    assert sorted(encoded) == sorted([WORDS, exact])
    assert rows[0]["states"] == cut[0]["states"]


def test_the_rule_is_part_of_the_key_of_its_table_alone(model: ModelConfig) -> None:
    cutting, rejecting = table_keys(model, CONFIG), table_keys(model, override(CONFIG, ["long_captions=reject"]))
    assert {name for name in cutting if cutting[name] != rejecting[name]} == {"t5_tokens"}
    assert "long_captions" not in cutting["t5_tokens"].model_dump(), "tables of before stay good"


@pytest.mark.parametrize("text", ["red", "红球" * 20, "naïve café " * 30, "ﷺ" * 3])
def test_counts_are_those_of_the_tokenizer(text: str, model: ModelConfig) -> None:
    tokenizer = load_t5_tokenizer(model)
    tokens = len(tokenizer(text).input_ids)
    for limit in (1, tokens - 1, tokens, tokens + 1):
        assert cut_captions([table(text)], tokenizer, limit).captions == (tokens > limit)
