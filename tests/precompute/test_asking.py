"""Answers that an engine writes, on real Ray: the same tables as on the road through transformers.

The engine is a stand-in that makes of token ids and sampling arguments, which is all that it gets, what the language
model's branch samples itself; what is around it is the real thing.
"""

import json
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mimir_ray.config import UserError, override
from mimir_ray.model.config import LanguageConfig, ModelConfig
from mimir_ray.model.questions import query_ids
from mimir_ray.model.text_branches import choose_tokens
from mimir_ray.precompute import encode_in_memory, precompute
from mimir_ray.precompute.actors import LLMEncoder
from mimir_ray.precompute.answers import answers_row, questions_about
from mimir_ray.precompute.asking import AnswerCollector, ask
from mimir_ray.precompute.components import load_llm, load_llm_reader
from mimir_ray.precompute.keys import table_keys
from mimir_ray.storage import Table
from mimir_ray.vllm import TextEngine, TextEngineConfig, engine_around, ray_processor, to_ray
from tests.precompute.test_pipeline import SHARDS, commit
from tests.precompute.world import (
    CONFIG,
    alone,
    copy_of,
    curated,
    encode_here,
    precompute_whole,
    regroup,
    rows_of,
    tiny_model,
)

TO_VLLM = override(CONFIG, ["engine=vllm"])
YELLOW = "a yellow square rolls up"
LONG = "red " * 400
ASKED = ("prompt", "images", "sampling", "error")


@cache
def loaded(model: str) -> Any:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(model).eval()


def written(row: dict[str, Any], model: str, log: str = "", fails: tuple[int, ...] = ()) -> dict[str, Any]:
    """What an engine says of a row; an error where the prompt is that which it fails on."""
    answer = {name: value for name, value in row.items() if name not in ASKED}
    if row["error"]:
        return answer | {"tokens": [], "text": "", "error": row["error"]}
    prompt, sampling = [int(token) for token in row["prompt"]], json.loads(row["sampling"])
    if log:
        with open(log, "a") as file:
            file.write(json.dumps({"prompt": prompt, "sampling": sampling}) + "\n")
    if prompt == list(fails):
        return answer | {"tokens": [], "text": "", "error": "ValueError: no answer to this"}
    generator = torch.Generator("cpu").manual_seed(sampling["seed"])
    draws = torch.rand(sampling["max_tokens"], generator=generator, dtype=torch.float64)
    tokens: list[int] = []
    with torch.inference_mode():
        for draw in draws:
            logits = loaded(model)(torch.tensor([prompt + tokens])).logits[:, -1].float()
            tokens += choose_tokens(logits, draw[None], sampling["temperature"], sampling["top_p"]).tolist()
            if tokens[-1] in sampling["stop_token_ids"]:
                break
    return answer | {"tokens": tokens, "text": "", "error": ""}


def engine(config: TextEngineConfig, log: Path, fails: tuple[int, ...] = ()) -> TextEngine:
    said = partial(written, model=config.model, log=str(log), fails=fails)
    return lambda dataset: dataset.repartition(2).map(said, num_cpus=0.1)  # rows of a shard do not stay together


def never(config: TextEngineConfig) -> TextEngine:
    raise AssertionError("nobody has anything to ask")


def logged(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _about(text: str, instructions: Sequence[str]) -> list[str]:
    return [instruction.format(prompt=text) for instruction in instructions]


def answered_here(data: Path, model: ModelConfig, config: Any, shard: str) -> list[dict[str, Any]]:
    """Both steps of a shard in this process; returns the rows that the engine was to answer."""
    facts = alone(shard).row() | {"predecessors": [], "retry": "passing", "answers": True, "llm_tokens": True}
    asked = list(ask(facts, str(data), model, config))
    collect = AnswerCollector(str(data), model, config)
    collected = [collect(written(row, str(model.llm))) for row in asked]
    assert collected[:-1] == [None] * (len(collected) - 1)
    assert collected[-1] is not None
    LLMEncoder(str(data), model, config)(collected[-1])
    return [row for row in asked if not row["error"]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    model = tiny_model(tmp_path_factory.mktemp("model"))
    return model.model_copy(update={"language": override(model.language, ["temperature=0.8", "top_p=0.9"])})


@pytest.fixture(scope="module")
def sampled(model: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root encoded by transformers alone. One clip is broken, one caption is too long, one is yellow."""
    data = curated(tmp_path_factory.mktemp("sampled") / "data")
    captions = Table(str(data / "captions")).read("shard-2").to_pylist()
    captions[0]["text"], captions[1]["text"] = LONG, YELLOW
    commit(data, "captions", "shard-2", captions)
    encode_here(data, model, CONFIG)
    return data


@pytest.fixture(scope="module")
def asked(sampled: Path, model: ModelConfig, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The same clips and captions, answered by an engine."""
    folder = tmp_path_factory.mktemp("asked")
    data = copy_of(sampled, folder, "llm_tokens")
    precompute(str(data), model, TO_VLLM, engine=partial(engine, log=folder / "asked.jsonl"))
    return data


def test_the_same_tokens_are_the_same_rows_on_both_roads(asked: Path, sampled: Path) -> None:
    ours, theirs = rows_of(sampled, "llm_tokens"), rows_of(asked, "llm_tokens")
    assert [row["status"] for row in ours].count("ok") == 15
    for mine, other in zip(ours, theirs, strict=True):
        if mine["status"] == "ok":
            assert mine == other
        else:
            assert other == mine | {"reason": "answers: " + mine["reason"]}
    reasons = {row["text"]: row["reason"] for row in rows_of(asked, "answers") if row["clip_id"] != "clip-0-1"}
    assert "context of 256 tokens" in reasons.pop(LONG)
    assert set(reasons.values()) == {""}


def test_every_question_of_a_shard_is_asked_once(asked: Path, model: ModelConfig) -> None:
    questions = [(tuple(row["prompt"]), row["sampling"]["seed"]) for row in logged(asked.parent / "asked.jsonl")]
    texts = [
        {row["text"] for row in rows_of(asked, "answers") if row["clip_id"].startswith(clip) and row["status"] == "ok"}
        for clip in ("clip-0", "clip-1", "clip-2")
    ]
    assert len(questions) == sum(map(len, texts)) * (CONFIG.answers + 4)
    sampling = logged(asked.parent / "asked.jsonl")[0]["sampling"]
    stops = load_llm(model, 0).stop_ids
    expected = {"max_tokens": 6, "temperature": 0.8, "top_p": 0.9, "stop_token_ids": stops}
    assert {name: value for name, value in sampling.items() if name != "seed"} == expected
    assert load_llm_reader(model).stop_ids == stops


@pytest.mark.slow
def test_shards_of_other_names_ask_nothing_about_captions_that_were_answered(
    asked: Path, model: ModelConfig, tmp_path: Path
) -> None:
    data = copy_of(asked, tmp_path)
    tables = ["clips", "captions", "latents", "t5_tokens", "answers", "llm_tokens"]
    regroup(data, tables, {"00000-kept": [2], "00001-old": [0, 1]})
    regroup(data, ["clips", "captions"], {"00000-kept": [2], "00001-new": [0, 1]})
    added = {"00000-kept": "a yellow square waits", "00001-new": "a green circle waits"}
    for shard, text in added.items():  # one has a predecessor, the other none
        texts = Table(str(data / "captions")).read(shard).to_pylist()
        texts[4]["text"] = text
        commit(data, "captions", shard, texts)
    before = rows_of(data, "answers")
    log = tmp_path / "asked.jsonl"
    summary = precompute(str(data), model, TO_VLLM, engine=partial(engine, log=log))
    # What could not be made stays: a broken clip, and a caption that is too long to be asked about.
    assert summary.rows_tried == {"latents": 0, "t5_tokens": 2, "answers": 2, "llm_tokens": 2}
    assert len(logged(log)) == 2 * (CONFIG.answers + 4)
    assert [row["text"] for row in rows_of(data, "answers") if row not in before] == [*added.values()]


@pytest.mark.slow
def test_an_answer_that_fails_costs_its_caption_alone(
    sampled: Path, asked: Path, model: ModelConfig, tmp_path: Path
) -> None:
    data = copy_of(sampled, tmp_path, "llm_tokens")
    fails = tuple(
        query_ids(AutoTokenizer.from_pretrained(model.llm), model.language.instructions[2].format(prompt=YELLOW))
    )
    failing = partial(engine, log=tmp_path / "asked.jsonl", fails=fails)
    summary = precompute(str(data), model, TO_VLLM, engine=failing)
    assert sum(summary.accounts["answers"].quarantined.values()) == 2 + 1 + 1  # broken, too long, and this one
    for row, whole in zip(rows_of(data, "llm_tokens"), rows_of(asked, "llm_tokens"), strict=True):
        if row["text"] == YELLOW:
            assert (row["status"], row["reason"]) == ("quarantined", "answers: ValueError: no answer to this")
        else:
            assert (row["status"], row["reason"]) == (whole["status"], whole["reason"])
            tokens = [[answer["token_ids"] for answer in one["answers"] or ()] for one in (row, whole)]
            assert tokens[0] == tokens[1]


def test_answers_that_are_there_are_not_asked_for_again(asked: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = copy_of(asked, tmp_path)
    Table(str(data / "llm_tokens")).drop(SHARDS)
    summary = precompute_whole(data, model, TO_VLLM, engine=never)
    assert summary.rows_encoded == {"latents": 0, "t5_tokens": 0, "answers": 0, "llm_tokens": 15}
    assert rows_of(data, "llm_tokens") == rows_of(asked, "llm_tokens")
    pooled = model.model_copy(update={"language": override(model.language, ["instruction_pooling=last"])})
    summary = precompute_whole(data, pooled, TO_VLLM, overwrite=True, engine=never)
    assert summary.rows_encoded["llm_tokens"] == 15


@pytest.mark.slow
def test_lost_answers_leave_their_shards_pending_and_only_these_are_asked_about_again(
    sampled: Path, asked: Path, model: ModelConfig, tmp_path: Path
) -> None:
    data, log = copy_of(sampled, tmp_path, "llm_tokens"), tmp_path / "second.jsonl"

    def losing(config: TextEngineConfig) -> TextEngine:
        whole = engine(config, tmp_path / "first.jsonl")
        return lambda dataset: whole(dataset).filter(lambda row: row["asked"] != YELLOW)

    with pytest.raises(RuntimeError, match=r"answers: shard-2 \(1 in all\).*run again"):
        precompute(str(data), model, TO_VLLM, engine=losing)
    precompute(str(data), model, TO_VLLM, engine=partial(engine, log=log))
    assert rows_of(data, "llm_tokens") == rows_of(asked, "llm_tokens")
    assert len(logged(log)) == 5 * (CONFIG.answers + 4)


@pytest.mark.slow
def test_rays_own_engine_stage_takes_the_rows(sampled: Path, model: ModelConfig, tmp_path: Path) -> None:
    from tests.standin_vllm import END, on_stand_in

    def stand_in(config: TextEngineConfig) -> TextEngine:
        return lambda dataset: engine_around(on_stand_in(ray_processor(config)))(dataset)

    data = copy_of(sampled, tmp_path, "llm_tokens")
    precompute(str(data), model, TO_VLLM, engine=stand_in)
    tokenizer, instructions = AutoTokenizer.from_pretrained(model.llm), model.language.instructions
    rows = {row["text"]: row for row in rows_of(data, "answers") if row["status"] == "ok"}
    assert YELLOW in rows
    for text, row in rows.items():
        backwards = [[*query_ids(tokenizer, asked)[:-6:-1], END] for asked in (text, *_about(text, instructions))]
        assert [answer["token_ids"] for answer in row["sampled"]] == backwards[:1] * CONFIG.answers
        assert row["instructions"] == backwards[1:]
    statuses = [row["status"] for row in rows_of(data, "llm_tokens")]
    assert statuses == [row["status"] for row in rows_of(sampled, "llm_tokens")]


def test_a_missing_vllm_is_told_before_anything_runs(asked: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = copy_of(asked, tmp_path, "answers", "llm_tokens")
    with pytest.raises(UserError, match=r"pip install 'mimir-ray\[vllm\]'.*engine=transformers"):
        precompute(str(data), model, TO_VLLM)
    assert not [*data.glob("answers/*.parquet"), *data.glob("llm_tokens/*.parquet")]
    precompute(str(asked), model, TO_VLLM)  # where all is there nobody needs it


@pytest.mark.slow
def test_a_new_caption_is_asked_about_alone(asked: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = copy_of(asked, tmp_path)
    captions = Table(str(data / "captions")).read("shard-1").to_pylist()
    captions[0]["text"] = YELLOW
    commit(data, "captions", "shard-1", captions)
    t5_tokens = Table(str(data / "t5_tokens")).read("shard-1").to_pylist()
    t5_tokens[0]["text"] = YELLOW
    commit(data, "t5_tokens", "shard-1", t5_tokens)
    before = rows_of(data, "llm_tokens")
    assert {row["asked"] for row in answered_here(data, model, TO_VLLM, "shard-1")} == {
        YELLOW,
        *_about(YELLOW, model.language.instructions),
    }
    assert [row["text"] for row in rows_of(data, "llm_tokens") if row not in before] == [YELLOW]


@pytest.mark.slow
def test_instructions_without_the_prompt_are_asked_once_a_shard(
    sampled: Path, model: ModelConfig, tmp_path: Path
) -> None:
    everyone = model.model_copy(update={"language": override(model.language, ["instruction_scope=global"])})
    data = copy_of(sampled, tmp_path, "llm_tokens")
    asked = answered_here(data, everyone, TO_VLLM, "shard-1")
    captions = {row["text"] for row in rows_of(data, "answers")}
    assert len(asked) == len(captions) * CONFIG.answers + 4
    given = rows_of(data, "llm_tokens")
    Table(str(data / "llm_tokens")).drop(["shard-1"])
    LLMEncoder(str(data), everyone, CONFIG)(
        alone("shard-1").row() | {"predecessors": [], "retry": "passing", "llm_tokens": True}
    )
    assert given == rows_of(data, "llm_tokens")


def test_rows_are_such_as_the_engine_takes(asked: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = copy_of(asked, tmp_path, "answers")
    for row in ask(
        alone("shard-2").row() | {"predecessors": [], "retry": "passing", "answers": True}, str(data), model, TO_VLLM
    ):
        taken = to_ray(row)
        if row["error"]:
            assert taken["__inference_error__"] == row["error"]
            continue
        assert taken["tokenized_prompt"] == load_llm(model, 0).query_ids(row["asked"])
        assert taken["carried"]["facts"]["shard"] == "shard-2"
    short = override(TO_VLLM, ["vllm.max_model_len=10"])
    rows = list(
        ask(alone("shard-1").row() | {"predecessors": [], "retry": "passing", "answers": True}, str(data), model, short)
    )
    assert all("context of 10 tokens" in row["error"] for row in rows)


def test_a_row_of_answers_says_which_seed_each_is_of() -> None:
    config, language = override(CONFIG, ["seed=7"]), LanguageConfig()
    caption = {"clip_id": "a", "kind": "long", "text": YELLOW}
    row = answers_row(caption, [[number] for number in range(6)], config)
    assert row["sampled"] == [{"seed": 7, "token_ids": [0]}, {"seed": 8, "token_ids": [1]}]
    assert row["instructions"] == [[2], [3], [4], [5]]
    assert [seed for _, seed in questions_about(YELLOW, language, config)] == [7, 8, 7, 7, 7, 7]


def test_an_answer_without_a_token_is_none(asked: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = copy_of(asked, tmp_path, "answers")
    collect = AnswerCollector(str(data), model, TO_VLLM)
    for row in ask(
        alone("shard-1").row() | {"predecessors": [], "retry": "passing", "answers": True}, str(data), model, TO_VLLM
    ):
        collect(row | {"tokens": [], "error": ""})
    assert {row["reason"] for row in rows_of(data, "answers")} == {"the engine wrote nothing, not even an end token"}


def test_the_engine_is_part_of_what_llm_tokens_are_made_with(sampled: Path, asked: Path, model: ModelConfig) -> None:
    ours, theirs = table_keys(model, CONFIG), table_keys(model, TO_VLLM)
    assert list(theirs) == ["latents", "t5_tokens", "answers", "llm_tokens"]
    assert "engine" not in ours["llm_tokens"].model_dump()
    assert {name for name in ours if ours[name] != theirs[name]} == {"llm_tokens"}
    assert table_keys(model, override(TO_VLLM, ["vllm.engines=4", "vllm.batch=8"])) == theirs
    for data, config in ((sampled, TO_VLLM), (asked, CONFIG)):
        with pytest.raises(UserError, match=r"engine is (new|gone).*--overwrite"):
            precompute(str(data), model, config, engine=never)


def test_a_run_without_cache_has_no_engine(sampled: Path, model: ModelConfig) -> None:
    with pytest.raises(UserError, match=r"precompute\.engine=vllm.*set precompute\.engine=transformers"):
        encode_in_memory(str(sampled), model, TO_VLLM)
