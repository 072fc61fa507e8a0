"""What the language model is asked about a prompt, as text and as token ids. Needs its tokenizer, and no weights."""

import hashlib
from typing import Any, NamedTuple

from mimir_ray.config import UserError
from mimir_ray.model.config import LanguageConfig


class Question(NamedTuple):
    """A text to answer, and the seed that its answer is drawn with."""

    text: str
    seed: int


def prompt_question(config: LanguageConfig, prompt: str, seed: int) -> Question:
    """The question whose answer becomes LLM tokens."""
    return Question(config.question.replace("{prompt}", prompt), seed)


def instruction_questions(config: LanguageConfig, prompt: str, seed: int) -> list[Question]:
    """The four instructions. Where they do not depend on the prompt, nor do they on the seed."""
    if config.instruction_scope == "global":
        return [Question(text.replace("{prompt}", "").rstrip(" :"), 0) for text in config.instructions]
    return [Question(text.replace("{prompt}", prompt), seed) for text in config.instructions]


def query_ids(tokenizer: Any, text: str) -> list[int]:
    """``text`` as the user's turn, in the tokenizer's chat format where it has one, up to the answer."""
    if not tokenizer.chat_template:
        return list(tokenizer(text).input_ids)
    turn = [{"role": "user", "content": text}]
    return list(tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"])


def check_context(query_tokens: int, max_new_tokens: int, limit: int | None) -> None:
    """Raises UserError where a question and its answer may not fit ``limit`` tokens; None is no limit."""
    if limit is not None and query_tokens + max_new_tokens > limit:
        raise UserError(
            f"a question of {query_tokens} tokens and an answer of up to {max_new_tokens} exceed the language model's "
            f"context of {limit} tokens: shorten the prompt or lower language.max_new_tokens"
        )


def stop_ids(tokenizer: Any, generation_config: Any) -> list[int]:
    """End tokens of a model's generation config and of its tokenizer."""
    found: set[int] = set()
    for ids in (getattr(generation_config, "eos_token_id", None), tokenizer.eos_token_id):
        if ids is not None:
            found.update(ids if isinstance(ids, list | tuple) else [ids])
    return sorted(found)


def generator_seed(seed: int, text: str) -> int:
    """The seed of the generator that an answer's random numbers come from: each question has one of its own."""
    digest = hashlib.sha256(f"{seed}\0{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
