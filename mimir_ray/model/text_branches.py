"""The two language branches (section 2.2): the T5 encoder and the decoder-only LLM.

Shapes: ``B`` prompts, ``N`` T5 tokens, ``L`` LLM tokens, ``D`` and ``E`` the widths of T5 and of the LLM.
"""

import inspect
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from mimir_ray.model.base import variant_of
from mimir_ray.model.config import SEMANTIC_TOKENS, LanguageConfig
from mimir_ray.model.offload import execution_device
from mimir_ray.model.questions import (
    Question,
    check_context,
    generator_seed,
    instruction_questions,
    prompt_question,
    query_ids,
    stop_ids,
)
from mimir_ray.model.tokens import TextTokens

__all__ = ["LLMBranch", "T5Branch", "TextTokens"]


class T5Branch:
    """T5 tokens e_theta, exactly as CogVideoX makes them: padded to ``max_length`` and unmasked."""

    def __init__(self, tokenizer: Any, encoder: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.max_length = max_length

    @classmethod
    def of_base(cls, base: str, max_length: int, *, dtype: torch.dtype, revision: str | None = None) -> Self:
        """The T5 of a checkpoint, a directory or a hub id, on the CPU."""
        from transformers import AutoTokenizer, T5EncoderModel

        where = {"revision": revision, "variant": variant_of(base, "text_encoder")}
        encoder: Any = T5EncoderModel.from_pretrained(base, subfolder="text_encoder", dtype=dtype, **where)
        tokenizer = AutoTokenizer.from_pretrained(base, subfolder="tokenizer", revision=revision)
        return cls(tokenizer, encoder.eval(), max_length)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """B N D in the encoder's dtype. A prompt of more than N tokens is truncated; ``token_count`` says so before."""
        batch = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        )
        states: Tensor = self.encoder(batch.input_ids.to(execution_device(self.encoder)))[0]
        return states.to(self.encoder.dtype)

    def token_count(self, prompt: str) -> int:
        """Number of T5 tokens of ``prompt`` before any truncation, the end token included."""
        return token_counts(self.tokenizer, [prompt])[0]


def token_counts(tokenizer: Any, prompts: Sequence[str]) -> list[int]:
    """Number of T5 tokens of each prompt before any truncation, the end token included."""
    if not prompts:
        return []
    return [len(ids) for ids in tokenizer(list(prompts), add_special_tokens=True, verbose=False).input_ids]


class LLMBranch:
    """LLM tokens e_beta (query and answer) and instruction tokens e_i of any ``AutoModelForCausalLM``.

    States are the last layer's after the final norm, ``hidden_states[-1]``. Rows are independent: each draws from a
    generator of its own, seeded by (seed, text), so the batch a prompt is in changes its answer by no more than dtype
    rounding can.
    """

    def __init__(self, tokenizer: Any, model: Any, config: LanguageConfig | None = None) -> None:
        self.tokenizer = tokenizer
        self.model = model
        self.config = LanguageConfig() if config is None else config
        self.stop_ids = stop_ids(tokenizer, model.generation_config)
        accepted = inspect.signature(model.forward).parameters
        self._positions = "position_ids" in accepted
        self._last_logits: dict[str, int] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def encode(self, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Query states (Lq E), answer states (La E) of each prompt and instruction tokens (B 4 E), in one batch."""
        questions = self._prompt_questions(prompts, seeds) + self._instruction_questions(prompts, seeds)
        answers = self._answer(questions, self.config.temperature, self.config.max_new_tokens)
        queries, states = self._states([text for text, _ in questions], answers)
        return queries[: len(prompts)], states[: len(prompts)], self._pool(states[len(prompts) :], len(prompts))

    def answer(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        temperature: float | None = None,
        max_new_tokens: int | None = None,
    ) -> list[list[int]]:
        """Token ids of one answer per prompt, at least one each: the end token, where reached, is the last.

        Raises:
            UserError: a question and its answer do not fit the LLM's context.
        """
        temperature = self.config.temperature if temperature is None else temperature
        questions = self._prompt_questions(prompts, seeds)
        return self._answer(questions, temperature, max_new_tokens or self.config.max_new_tokens)

    def states(self, prompts: Sequence[str], answers: Sequence[Sequence[int]]) -> tuple[list[Tensor], list[Tensor]]:
        """Query states (Lq E) and answer states (La E) of each prompt from one teacher-forced pass.

        The query is the prompt in the LLM's chat format, template tokens included: the model attends to all of them.
        """
        return self._states([self.config.question.replace("{prompt}", prompt) for prompt in prompts], answers)

    def instructions(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Instruction tokens e_i, B 4 E: each instruction's answer pooled to one token."""
        return self.instruction_states(prompts, self.instruction_answers(prompts, seeds))

    def instruction_answers(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[list[int]]:
        """Token ids of the answers to the instructions: four of each prompt, one prompt after another, or four in all
        where the instructions do not depend on the prompt. Raises UserError as ``answer`` does."""
        questions = self._instruction_questions(prompts, seeds)
        return self._answer(questions, self.config.temperature, self.config.max_new_tokens)

    def instruction_states(self, prompts: Sequence[str], answers: Sequence[Sequence[int]]) -> Tensor:
        """Instruction tokens e_i, B 4 E, of answers such as ``instruction_answers`` gives, from one teacher-forced
        pass."""
        questions = self._instruction_questions(prompts, [0] * len(prompts))
        return self._pool(self._states([text for text, _ in questions], answers)[1], len(prompts))

    def query_ids(self, text: str) -> list[int]:
        """``text`` as the user's turn, in the tokenizer's chat format where it has one, up to the answer."""
        return query_ids(self.tokenizer, text)

    def decode(self, answer: Sequence[int]) -> str:
        """An answer's text without special tokens."""
        return str(self.tokenizer.decode(list(answer), skip_special_tokens=True)).strip()

    def _prompt_questions(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Question]:
        return [prompt_question(self.config, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def _instruction_questions(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Question]:
        if self.config.instruction_scope == "global":
            return instruction_questions(self.config, "", 0)
        asked = zip(prompts, seeds, strict=True)
        return [question for prompt, seed in asked for question in instruction_questions(self.config, prompt, seed)]

    def _pool(self, answers: Sequence[Tensor], batch: int) -> Tensor:
        last = self.config.instruction_pooling == "last"
        pooled = torch.stack([states[-1] if last else states.float().mean(0).to(states.dtype) for states in answers])
        return pooled.view(-1, SEMANTIC_TOKENS, pooled.shape[-1]).expand(batch, -1, -1)

    @torch.inference_mode()
    def _answer(self, questions: Sequence[Question], temperature: float, max_new_tokens: int) -> list[list[int]]:
        queries = [self.query_ids(text) for text, _ in questions]
        longest = max(len(query) for query in queries)
        check_context(longest, max_new_tokens, getattr(self.model.config, "max_position_embeddings", None))
        device = execution_device(self.model)
        ids, mask = _pad(queries, device, left=True)
        draws = torch.stack([uniforms(seed, text, max_new_tokens) for text, seed in questions])
        draws = draws.to(device)
        stop = torch.tensor(self.stop_ids, device=device)
        running = torch.ones(len(questions), dtype=torch.bool, device=device)
        lengths = torch.zeros(len(questions), dtype=torch.long, device=device)
        chosen: list[Tensor] = []
        cache = None
        for step in range(max_new_tokens):
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                **({"position_ids": positions} if self._positions else {}),
                **self._last_logits,
            )
            cache = output.past_key_values
            token = choose_tokens(output.logits[:, -1].float(), draws[:, step], temperature, self.config.top_p)
            chosen.append(token)
            lengths += running
            running = running & ~torch.isin(token, stop)
            if not running.any():
                break
            ids = token[:, None]
            mask = torch.cat([mask, mask.new_ones(len(questions), 1)], dim=1)
        tokens = torch.stack(chosen, dim=1).tolist()
        return [row[:length] for row, length in zip(tokens, lengths.tolist(), strict=True)]

    @torch.no_grad()
    def _states(self, texts: Sequence[str], answers: Sequence[Sequence[int]]) -> tuple[list[Tensor], list[Tensor]]:
        queries = [self.query_ids(text) for text in texts]
        rows = [[*query, *answer] for query, answer in zip(queries, answers, strict=True)]
        ids, mask = _pad(rows, execution_device(self.model), left=False)
        # Taken from the body, whose last_hidden_state is hidden_states[-1], so that neither every layer's states nor
        # vocabulary-wide logits are kept; through the whole model, whose forward is what offloading knows.
        bodies: list[Tensor] = []
        handle = self.model.base_model.register_forward_hook(lambda *call: bodies.append(call[-1].last_hidden_state))
        try:
            self.model(input_ids=ids, attention_mask=mask, use_cache=False, **self._last_logits)
        finally:
            handle.remove()
        hidden = bodies[0]
        query_states = [hidden[i, : len(query)] for i, query in enumerate(queries)]
        answer_states = [hidden[i, len(query) : len(rows[i])] for i, query in enumerate(queries)]
        return query_states, answer_states


def uniforms(seed: int, text: str, count: int) -> Tensor:
    """The uniform numbers of one row. A shorter answer uses a prefix of a longer one's."""
    generator = torch.Generator("cpu").manual_seed(generator_seed(seed, text))
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _pad(rows: Sequence[Sequence[int]], device: torch.device, *, left: bool) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both B x longest; the id of a pad does not matter, it is masked."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        span = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[index, span] = torch.as_tensor(row)
        mask[index, span] = 1
    return ids.to(device), mask.to(device)


def choose_tokens(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token per row (B V -> B) by inverting the cumulative distribution at ``uniform``; temperature 0 is greedy."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    cumulative = probabilities.cumsum(-1)
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).clamp(max=logits.shape[-1] - 1).squeeze(-1)
