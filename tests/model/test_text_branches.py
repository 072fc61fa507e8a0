"""The language branches: T5 as CogVideoX has it, LLM answers and states that do not depend on the batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXPipeline
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig

from mimir_ray.config import UserError
from mimir_ray.model.config import LanguageConfig
from mimir_ray.model.text_branches import LLMBranch, T5Branch
from mimir_ray.model.tokens import TextTokens
from tests.model.conftest import PROMPTS
from tests.tiny import LLM_DIM, TEXT_LENGTH, tiny_llm_tokenizer

LONGER = [*PROMPTS, "a", "two small green triangle and one big purple square moves right then down"]
FAMILIES = ["phi3", "llama", "gpt2"]


def make(family: str, llm: Path, **settings: Any) -> LLMBranch:
    """Phi3 with a chat template from disk, Llama with one, GPT-2 (learnt absolute positions) without."""
    config = LanguageConfig(**{"max_new_tokens": 12, **settings})
    if family == "phi3":
        return LLMBranch(AutoTokenizer.from_pretrained(llm), AutoModelForCausalLM.from_pretrained(llm).eval(), config)
    tokenizer = tiny_llm_tokenizer()
    common = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 5, "pad_token_id": 0}
    torch.manual_seed(5)
    if family == "llama":
        sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = AutoModelForCausalLM.from_config(LlamaConfig(**common, **sizes))
    else:
        tokenizer.chat_template = None
        model = AutoModelForCausalLM.from_config(GPT2Config(**common, n_embd=24, n_layer=2, n_head=2, n_positions=64))
    return LLMBranch(tokenizer, model.eval(), config)


def test_t5_tokens_equal_cogvideox(base_2b: Path) -> None:
    pipeline = CogVideoXPipeline.from_pretrained(base_2b)
    branch = T5Branch(pipeline.tokenizer, pipeline.text_encoder, TEXT_LENGTH)
    with torch.no_grad():
        theirs, _ = pipeline.encode_prompt(LONGER, do_classifier_free_guidance=False, max_sequence_length=TEXT_LENGTH)
    assert torch.equal(branch.encode(LONGER), theirs)
    assert branch.token_count("a red circle") == 4
    alone = torch.cat([branch.encode([prompt]) for prompt in LONGER])
    torch.testing.assert_close(alone, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_equal_generate(family: str, llm: Path) -> None:
    branch = make(family, llm, temperature=0.0)
    answers = branch.answer(LONGER, seeds=[0] * 4)
    for prompt, answer in zip(LONGER, answers, strict=True):
        query = torch.tensor([branch.query_ids(prompt)])
        whole = branch.model.generate(
            query,
            attention_mask=torch.ones_like(query),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=branch.stop_ids,
        )
        assert answer == whole[0, query.shape[1] :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_the_batch_a_prompt_is_in_does_not_change_its_tokens(family: str, top_p: float, llm: Path) -> None:
    branch = make(family, llm, top_p=top_p)
    seeds = [3, 1, 4, 1]
    together = branch.answer(LONGER, seeds)
    alone = [branch.answer([prompt], [seed])[0] for prompt, seed in zip(LONGER, seeds, strict=True)]
    reverse = branch.answer(LONGER[::-1], seeds[::-1])[::-1]
    assert together == alone == reverse
    queries, answers, instruction = branch.encode(LONGER, seeds)
    for index, (prompt, seed) in enumerate(zip(LONGER, seeds, strict=True)):
        query, answer, tokens = branch.encode([prompt], [seed])
        torch.testing.assert_close(queries[index], query[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(answers[index], answer[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(instruction[index], tokens[0], rtol=1e-4, atol=1e-5)


def test_answers_are_sampled_by_seed_and_queries_do_not_vary(llm: Path) -> None:
    branch = make("phi3", llm)
    seeds = list(range(30))
    answers = branch.answer([PROMPTS[0]] * 30, seeds)
    assert answers == branch.answer([PROMPTS[0]] * 30, seeds)
    assert len({tuple(answer) for answer in answers}) > 25
    queries, _ = branch.states([PROMPTS[0]] * 30, answers)
    assert all(torch.allclose(query, queries[0], atol=1e-5) for query in queries)


def test_sampled_tokens_follow_the_models_distribution(llm: Path) -> None:
    branch = make("phi3", llm, max_new_tokens=1)
    count = 4000
    drawn = torch.tensor(branch.answer(["a red circle"] * count, list(range(count)))).flatten()
    with torch.no_grad():
        logits = branch.model(torch.tensor([branch.query_ids("a red circle")])).logits[0, -1]
    expected = logits.softmax(-1)
    observed = torch.bincount(drawn, minlength=len(expected)) / count
    assert float((observed - expected).abs().max()) < 4 * float((expected.max() / count).sqrt())


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_the_last_layer_after_the_final_norm(family: str, llm: Path) -> None:
    branch = make(family, llm)
    answers = branch.answer(LONGER, [0, 1, 2, 3])
    queries, states = branch.states(LONGER, answers)
    for prompt, answer, query, state in zip(LONGER, answers, queries, states, strict=True):
        ids = branch.query_ids(prompt)
        with torch.no_grad():
            hidden = branch.model(torch.tensor([[*ids, *answer]]), output_hidden_states=True).hidden_states[-1][0]
        torch.testing.assert_close(query, hidden[: len(ids)], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state, hidden[len(ids) :], rtol=1e-4, atol=1e-5)
        assert state.shape == (len(answer), LLM_DIM)
        assert not query.is_inference()


def test_answers_end_at_any_end_token(llm: Path) -> None:
    branch = make("phi3", llm, max_new_tokens=60)
    assert branch.stop_ids == [1, 5]
    answers = branch.answer([PROMPTS[0]] * 40, list(range(40)))
    ended = [answer for answer in answers if answer[-1] in branch.stop_ids]
    assert ended
    assert all(token not in branch.stop_ids for answer in answers for token in answer[:-1])
    assert all(1 <= len(answer) <= 60 for answer in answers)


def test_the_query_is_the_chat_formatted_question(llm: Path) -> None:
    branch = make("phi3", llm, question="describe the video : {prompt}")
    text = branch.tokenizer.decode(branch.query_ids("a red circle"))
    assert text.replace(" ", "") == "<|user|>aredcircle<|end|><|assistant|>"
    answers = branch.answer(["a red circle"], [0])
    queries, _ = branch.states(["a red circle"], answers)
    assert queries[0].shape[0] == len(branch.query_ids("describe the video : a red circle"))


def test_instructions_pool_each_answer_to_one_token(llm: Path) -> None:
    branch = make("phi3", llm)
    tokens = branch.instructions(PROMPTS, [0, 7])
    assert tokens.shape == (2, 4, LLM_DIM)
    plain = make("phi3", llm, question=branch.config.instructions[2])
    answer = plain.answer([PROMPTS[1]], [7])
    _, states = plain.states([PROMPTS[1]], answer)
    torch.testing.assert_close(tokens[1, 2], states[0].mean(0), rtol=1e-4, atol=1e-5)
    _, _, encoded = branch.encode(PROMPTS, [0, 7])
    torch.testing.assert_close(encoded, tokens, rtol=1e-4, atol=1e-5)
    last = make("phi3", llm, instruction_pooling="last").instructions(PROMPTS, [0, 7])
    assert not torch.allclose(last, tokens)


def test_global_instructions_are_the_same_for_every_prompt(llm: Path) -> None:
    branch = make("phi3", llm, instruction_scope="global")
    _, _, tokens = branch.encode(PROMPTS, [0, 7])
    assert tokens.shape == (2, 4, LLM_DIM)
    assert torch.equal(tokens[0], tokens[1])
    torch.testing.assert_close(branch.instructions(LONGER, [5, 6, 7, 8])[3], tokens[0], rtol=1e-4, atol=1e-5)


def test_a_question_beyond_the_context_is_refused_with_the_remedy(llm: Path) -> None:
    branch = make("gpt2", llm)
    with pytest.raises(UserError, match=r"60 tokens and an answer of up to 12 exceed .* context of 64 tokens: shorten"):
        branch.answer(["a " * 60], [0])


def test_prompts_with_braces_are_taken_literally(llm: Path) -> None:
    branch = make("phi3", llm)
    assert len(branch.encode(["a {red} {0} circle {prompt}"], [0])[0]) == 1


def test_collate_pads_and_cuts_to_n() -> None:
    t5, instruction = torch.zeros(2, 4, 3), torch.zeros(2, 4, 5)
    rows = [torch.full((2, 5), 1.0), torch.full((3, 5), 2.0)], [torch.full((1, 5), 3.0), torch.full((4, 5), 4.0)]
    tokens = TextTokens.collate(t5, *rows, instruction, length=5)
    assert tokens.llm[:, :, 0].tolist() == [[1, 1, 3, 0, 0], [2, 2, 2, 4, 4]]
    assert tokens.llm_mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert TextTokens.collate(t5, *rows, instruction).llm.shape == (2, 7, 5)
    assert tokens.select([1]).llm_mask.all()
    assert len(tokens.select(slice(0, 1))) == 1
    moved = tokens.to(dtype=torch.bfloat16)
    assert (moved.t5.dtype, moved.llm_mask.dtype) == (torch.bfloat16, torch.bool)
