"""Answers by an engine beside the pipeline: a shard becomes rows of questions, what is written a shard of `answers`.

1 shard -> the questions of its captions -> the engine -> token ids, committed when the last has come -> 1 shard
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from mimir_ray.config import UserError
from mimir_ray.dataflow import Row
from mimir_ray.model.config import ModelConfig
from mimir_ray.model.questions import Question, check_context, generator_seed, query_ids
from mimir_ray.precompute.answers import (
    Answers,
    answered_questions,
    answers_row,
    keyed_captions,
    questions_about,
    stored_answers,
)
from mimir_ray.precompute.components import load_llm_reader
from mimir_ray.precompute.config import PrecomputeConfig
from mimir_ray.precompute.inputs import CaptionRow
from mimir_ray.precompute.outcomes import Retry
from mimir_ray.precompute.replacing import TableRun
from mimir_ray.precompute.rows import Key, complete, settled_rows
from mimir_ray.precompute.shard_plan import PlannedShard
from mimir_ray.storage import Table, join
from mimir_ray.vllm import TextEngineConfig


def engine_config(model: ModelConfig, config: PrecomputeConfig) -> TextEngineConfig:
    """The language model, as an engine is to load it."""
    assert model.llm is not None
    return TextEngineConfig(model=model.llm, revision=model.llm_revision, dtype=model.dtype, pool=config.vllm)


def ask(facts: Row, data: str, model: ModelConfig, config: PrecomputeConfig) -> Iterator[Row]:
    """The questions of a shard that have no answer yet, each once, as rows of `mimir_ray.vllm`; a shard without any is
    a row that passes by.

    A question is asked with the token ids and the seed of the generator that `LLMBranch` has for it. One that does not
    fit the context passes by with the reason.
    """
    questions = _unanswered(facts, data, model, config) if facts["answers"] else []
    common = {"shard": facts["shard"], "facts": facts, "questions": len(questions)}
    if not questions:
        nothing = {"asked": "", "seed": 0, "prompt": [0], "sampling": "{}"}  # rows have the same columns throughout
        yield common | nothing | {"error": "nothing to ask"}
        return
    reader, language = load_llm_reader(model), model.language
    limits = [limit for limit in (reader.context, config.vllm.max_model_len) if limit is not None]
    sampling = {
        "max_tokens": language.max_new_tokens,
        "temperature": language.temperature,
        "top_p": language.top_p,
        "stop_token_ids": reader.stop_ids,
    }
    for text, seed in questions:
        prompt, error = query_ids(reader.tokenizer, text), ""
        try:
            check_context(len(prompt), language.max_new_tokens, min(limits, default=None))
        except UserError as refused:  # of one caption, not of the run
            error = str(refused)
        drawn = json.dumps(sampling | {"seed": generator_seed(seed, text)})
        yield common | {"asked": text, "seed": seed, "prompt": prompt, "sampling": drawn, "error": error}


class AnswerCollector:
    """Takes answered rows one by one, commits a shard of `answers` when it has its last one, and returns its facts.

    A shard is accounted the time since the last one was whole: engines answer many shards at once, so that only
    the sum says how long it took.
    """

    def __init__(self, data: str, model: ModelConfig, config: PrecomputeConfig) -> None:
        self._data, self._language, self._config = data, model.language, config
        self._table, self._upstream = Table(join(data, "answers")), Table(join(data, "t5_tokens"))
        self._answered: dict[str, dict[Question, Row]] = {}
        self._last_s = time.perf_counter()

    def __call__(self, row: Row) -> Row | None:
        """Take one row."""
        facts: Row = row["facts"]
        count, shard = row["questions"], row["shard"]
        answered = self._answered.setdefault(shard, {})
        if count:
            answered[Question(row["asked"], row["seed"])] = row
        if len(answered) < count:
            return None
        del self._answered[shard]
        tried, encoded = self._commit(facts, answered) if facts["answers"] else (0, 0)
        since, self._last_s = time.perf_counter() - self._last_s, time.perf_counter()
        return facts | {"answers_tried": tried, "answers_encoded": encoded, "answers_busy_s": since}

    def _commit(self, facts: Row, answered: Mapping[Question, Row]) -> tuple[int, int]:
        planned, run = PlannedShard.of(facts), TableRun.of(facts, "answers")
        predecessors, retry = run.stays(planned.shard, facts["predecessors"], facts["retry"])
        wanted = keyed_captions(self._data, planned)
        stored = _stored(self._table, planned.shard, predecessors, [key for key, _ in wanted], retry)
        answers: dict[Question, list[int] | str] = {question: _outcome(row) for question, row in answered.items()}
        answers |= answered_questions(stored.items(), self._language, self._config)
        rows = partial(self._rows, answers)
        return complete(self._table, planned.shard, predecessors, wanted, rows, retry, self._upstream, run)

    def _rows(self, answers: Mapping[Question, list[int] | str], captions: Sequence[CaptionRow]) -> list[Row]:
        return [self._row(answers, caption) for caption in captions]

    def _row(self, answers: Mapping[Question, list[int] | str], caption: CaptionRow) -> Row:
        written = [answers[question] for question in questions_about(caption["text"], self._language, self._config)]
        if failed := next((answer for answer in written if isinstance(answer, str)), None):
            return {**caption, "status": "quarantined", "reason": failed}
        return answers_row(caption, [answer for answer in written if not isinstance(answer, str)], self._config)


def _unanswered(facts: Row, data: str, model: ModelConfig, config: PrecomputeConfig) -> list[Question]:
    """Questions about the captions of a shard that neither it nor its predecessors answer."""
    table, wanted = Table(join(data, "answers")), keyed_captions(data, PlannedShard.of(facts))
    shard, keys = facts["shard"], [key for key, _ in wanted]
    predecessors, retry = TableRun.of(facts, "answers").stays(shard, facts["predecessors"], facts["retry"])
    settled = settled_rows(table, shard, predecessors, keys, retry, Table(join(data, "t5_tokens")))
    known = answered_questions(_stored(table, shard, predecessors, keys, retry).items(), model.language, config)
    texts = [caption["text"] for key, caption in wanted if key not in settled]
    asked = dict.fromkeys(question for text in texts for question in questions_about(text, model.language, config))
    return [question for question in asked if question not in known]


def _stored(
    table: Table, shard: str, predecessors: Sequence[str], keys: Sequence[Key], retry: Retry
) -> dict[str, Answers]:
    """The answers that are not asked for again."""
    return {} if retry == "everything" else stored_answers(table, shard, predecessors, keys)


def _outcome(row: Row) -> list[int] | str:
    """The token ids of an answered row, or what went wrong with it."""
    if row["error"]:
        return str(row["error"])[:500]
    return [int(token) for token in row["tokens"]] or "the engine wrote nothing, not even an end token"
