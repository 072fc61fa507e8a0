"""Captions that the text encoder truncates: counted, said, and rejected where that is asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from mimir_ray.config import override
from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute.actors import T5Encoder
from mimir_ray.precompute.components import load_t5, load_t5_tokenizer, text_length
from mimir_ray.precompute.encode import t5_rows
from mimir_ray.precompute.keys import table_keys
from mimir_ray.precompute.lengths import TruncatedCaptions, keep_counts, kept_counts, truncated_captions
from mimir_ray.records import SCHEMAS
from mimir_ray.storage import Table
from tests.precompute.world import CONFIG, alone, curated, encode_here, tiny_model

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
    found = truncated_captions([table(exact, over), table(far, over), table()], Letters(), 10)
    assert (found.limit, found.captions, found.longest, found.example) == (10, 3, 31, far)
    assert str(found).startswith(
        "captions truncated to the 10 tokens that the text encoder reads: 3; the longest has 31 tokens"
    )
    assert far in str(found)
    assert len(str(truncated_captions([table("z" * 4000)], Letters(), 10))) < 300
    nothing = truncated_captions([table(exact), table(far, status="quarantined")], Letters(), 10)
    assert (nothing.captions, nothing.longest, nothing.example) == (0, 0, "")


def test_texts_that_are_surely_short_are_not_even_tokenized() -> None:
    letters = Letters()
    truncated_captions([table("x" * 8, "y" * 9, "ﷺ")], letters, 10)  # the last one is 18 characters in another form
    assert letters.seen == ["y" * 9, "ﷺ"]


def stored(root: Path, shards: Mapping[str, Sequence[str]]) -> Table:
    """A table of captions as `t5_tokens` is, but for the states."""
    columns = ["text", "status", "reason"]
    tokens = Table(str(root / "t5_tokens"), pa.schema([(name, pa.string()) for name in columns]))
    for shard, texts in shards.items():
        tokens.commit(shard, table(*texts).append_column("reason", pa.array([""] * len(texts))))
    return tokens


def test_counts_are_kept_beside_the_shards_and_none_outlives_its_shard(tmp_path: Path) -> None:
    letters = Letters()
    tokens = stored(tmp_path, {"a": ["y" * 10], "b": ["z" * 30, "w" * 12], "c": ["x" * 2]})
    found = keep_counts(tokens, {}, lambda: letters, 10)
    assert (found.limit, found.captions, found.longest, found.example) == (10, 3, 31, "z" * 30)
    assert letters.seen == ["y" * 10, "z" * 30, "w" * 12]

    assert keep_counts(tokens, kept_counts(tokens, "abc"), lambda: letters, 10) == found
    assert len(letters.seen) == 3, "nothing is tokenized again"

    kept = kept_counts(tokens, "ac")  # b is about to be replaced, and the run is killed when that has been done
    assert kept.keys() == {"a", "c"}
    stored(tmp_path, {"b": ["v" * 11], "d": ["u" * 14]})
    tokens.drop(["a"])
    found = keep_counts(tokens, kept_counts(tokens, "abcd"), lambda: letters, 10)
    assert (found.captions, found.longest, found.example) == (2, 15, "u" * 14)
    assert letters.seen[3:] == ["v" * 11, "u" * 14]
    assert kept_counts(tokens, "abcd").keys() == {"b", "c", "d"}


def test_a_table_without_shards_has_cut_nothing(tmp_path: Path) -> None:
    assert keep_counts(stored(tmp_path, {}), {}, Letters, 10).captions == 0


def test_an_actor_counts_the_shards_that_it_completes(model: ModelConfig, tmp_path: Path) -> None:
    data = curated(tmp_path / "data", shards=2, clips_per_shard=2)
    long = " ".join(["red"] * 300)
    for shard in ("shard-0", "shard-1"):
        captions = Table(str(data / "captions"))
        rows = captions.read(shard).to_pylist()
        for row in rows if shard == "shard-1" else []:
            row["text"] = long
        captions.commit(shard, pa.Table.from_pylist(rows, schema=SCHEMAS["captions"]))
    encode_here(data, model, CONFIG)
    encoder, limit = T5Encoder(str(data), model, CONFIG), text_length(model)
    counts = {}
    for shard in ("shard-0", "shard-1"):
        facts = alone(shard).row() | {"predecessors": [], "retry": "passing"}
        assert not encoder(facts | {"t5_tokens": False})["truncated_captions"]
        found = encoder(facts | {"t5_tokens": True})["truncated_captions"]
        counts[shard] = TruncatedCaptions.model_validate_json(found)
    assert counts["shard-0"].captions == 0
    assert (counts["shard-1"].captions, counts["shard-1"].longest, counts["shard-1"].limit) == (4, 301, limit)
    counted = [Table(str(data / "t5_tokens")).read(shard) for shard in counts]
    assert truncated_captions(counted, load_t5_tokenizer(model), limit) == counts["shard-1"]


def test_long_captions_are_rejected_where_that_is_asked_for(model: ModelConfig) -> None:
    branch = load_t5(model, 0)
    limit = branch.max_length
    exact, over = " ".join(["red"] * (limit - 1)), " ".join(["red"] * (limit + 4))
    captions = [{"clip_id": str(n), "kind": "short", "text": text} for n, text in enumerate((WORDS, over, exact))]
    truncated = t5_rows(captions, branch, CONFIG)
    assert [row["status"] for row in truncated] == ["ok"] * 3
    assert truncated_captions([pa.Table.from_pylist(truncated)], load_t5_tokenizer(model), limit).longest == limit + 5
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
    assert "precompute.long_captions=truncate" in rows[1]["reason"]
    assert sorted(encoded) == sorted([WORDS, exact])
    assert rows[0]["states"] == truncated[0]["states"]


def test_the_rule_is_part_of_the_key_of_its_table_alone(model: ModelConfig) -> None:
    truncating, rejecting = table_keys(model, CONFIG), table_keys(model, override(CONFIG, ["long_captions=reject"]))
    assert {name for name in truncating if truncating[name] != rejecting[name]} == {"t5_tokens"}
    assert "long_captions" not in truncating["t5_tokens"].model_dump(), "tables of before stay good"


@pytest.mark.parametrize("text", ["red", "红球" * 20, "naïve café " * 30, "ﷺ" * 3])
def test_counts_are_those_of_the_tokenizer(text: str, model: ModelConfig) -> None:
    tokenizer = load_t5_tokenizer(model)
    tokens = len(tokenizer(text).input_ids)
    for limit in (1, tokens - 1, tokens, tokens + 1):
        assert truncated_captions([table(text)], tokenizer, limit).captions == (tokens > limit)
