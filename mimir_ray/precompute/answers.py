"""The `answers` table: what an engine wrote about each caption, as token ids, for the LLM to make states of.

A row holds the K answers to the question, with their seeds, and those to the four instructions. Within a shard equal
questions have one answer, so equal captions have equal rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mimir_ray.dataflow import Row
from mimir_ray.model.config import LanguageConfig
from mimir_ray.model.questions import Question, instruction_questions, prompt_question
from mimir_ray.precompute.config import PrecomputeConfig
from mimir_ray.precompute.inputs import CaptionRow, ok_captions
from mimir_ray.precompute.rows import Key, kept_rows
from mimir_ray.precompute.shard_plan import PlannedShard
from mimir_ray.storage import Table


@dataclass(frozen=True)
class Answers:
    """Token ids of what was written about one text."""

    sampled: list[list[int]]
    """The K answers, in the order of their seeds."""
    instructions: list[list[int]]
    """The answers to the four instructions."""


def keyed_captions(data: str, planned: PlannedShard) -> list[tuple[Key, CaptionRow]]:
    """The captions of a shard, and the keys of their rows."""
    return [(tuple(caption.values()), caption) for caption in ok_captions(data, planned)]


def questions_about(text: str, language: LanguageConfig, config: PrecomputeConfig) -> list[Question]:
    """The K questions, and the four instructions with the first seed."""
    asked = [prompt_question(language, text, config.seed + k) for k in range(config.answers)]
    return asked + instruction_questions(language, text, config.seed)


def answers_row(caption: CaptionRow, answers: list[list[int]], config: PrecomputeConfig) -> Row:
    """The row of a caption whose ``questions_about`` have these answers."""
    sampled = [{"seed": config.seed + k, "token_ids": ids} for k, ids in enumerate(answers[: config.answers])]
    return {**caption, "sampled": sampled, "instructions": answers[config.answers :], "status": "ok", "reason": ""}


def stored_answers(table: Table, shard: str, predecessors: Sequence[str], wanted: Iterable[Key]) -> dict[str, Answers]:
    """What a shard or its predecessors hold of the wanted captions, by the caption's text; only what is ok."""
    kept = kept_rows(table, shard, predecessors, wanted, lambda row: bool(row["status"] == "ok"))
    return {row["text"]: _answers(row) for row in kept.values()}


def answered_questions(
    stored: Iterable[tuple[str, Answers]], language: LanguageConfig, config: PrecomputeConfig
) -> dict[Question, list[int]]:
    """Which questions ``stored_answers`` answers, and how."""
    return {
        question: ids
        for text, answers in stored
        for question, ids in zip(
            questions_about(text, language, config), answers.sampled + answers.instructions, strict=True
        )
    }


def _answers(row: Row) -> Answers:
    return Answers([answer["token_ids"] for answer in row["sampled"]], row["instructions"])
