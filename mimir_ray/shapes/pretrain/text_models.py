"""The small text models: a T5 encoder that reads explicit captions, a Phi-3 that also knows every nickname.

T5 sees nicknames too, as words in sentences that it must repeat, but nothing ever tells it what they mean. The LLM
learns to answer a caption with its meaning, in varying words, and the four instructions with one attribute each.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import (
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from mimir_ray.shapes.language import INSTRUCTION_ANSWERS, explanation, long_caption, parse_target, short_caption
from mimir_ray.shapes.pretrain.config import TextConfig
from mimir_ray.shapes.pretrain.tokenizer import ASSISTANT, END, INSTRUCTIONS, USER
from mimir_ray.shapes.world import Scene, sample_scene

TEXT_LENGTH = 26
"""Text tokens of the shapes models: a chat turn and its answer fit."""
Report = Callable[[int, float], None]


def train_t5(tokenizer: PreTrainedTokenizerFast, out: Path, config: TextConfig, seed: int, report: Report) -> None:
    """Train encoder and decoder to parse explicit captions and to repeat the others; save the encoder alone.

    Pads are attended to, as CogVideoX does.
    """
    torch.manual_seed(seed)
    settings = T5Config(
        vocab_size=len(tokenizer),
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=3,
        num_decoder_layers=1,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=32,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    model = T5ForConditionalGeneration(settings)
    rng = random.Random(f"t5-{seed}")

    def loss() -> torch.Tensor:
        pairs = [_t5_pair(rng) for _ in range(config.batch_size)]
        inputs = tokenizer(
            [text for text, _ in pairs],
            padding="max_length",
            max_length=TEXT_LENGTH,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        labels = tokenizer([target for _, target in pairs], padding=True, return_tensors="pt").input_ids
        result: torch.Tensor = model(input_ids=inputs, labels=labels.masked_fill(labels == 0, -100)).loss
        return result

    _optimise(model, config, loss, warmup=200, report=report)
    encoder = T5EncoderModel(T5Config(**{**settings.to_dict(), "is_encoder_decoder": False}))
    encoder.load_state_dict(model.state_dict(), strict=False)
    encoder.eval().save_pretrained(out)


def _t5_pair(rng: random.Random) -> tuple[str, str]:
    scene, choice = sample_scene(rng), rng.random()
    if choice < 0.6:
        return long_caption(scene, rng), parse_target(scene)
    naming = "explicit" if choice < 0.7 else "seen" if choice < 0.85 else "held"
    caption = short_caption(scene, rng, naming)  # type: ignore[arg-type]
    return caption, caption


def train_llm(tokenizer: PreTrainedTokenizerFast, out: Path, config: TextConfig, seed: int, report: Report) -> None:
    """Train a Phi-3 on chats that explain captions; the answer's tokens weigh ten times the question's."""
    torch.manual_seed(seed)
    settings = Phi3Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=256,
        original_max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attention_dropout=0.0,
    )
    model = Phi3ForCausalLM(settings)
    rng = random.Random(f"llm-{seed}")
    user, end, assistant = tokenizer.convert_tokens_to_ids([USER, END, ASSISTANT])

    def loss() -> torch.Tensor:
        chats = []
        for _ in range(config.batch_size):
            question, answer = _chat(rng)
            asked = [user, *tokenizer(question, add_special_tokens=False).input_ids, end, assistant]
            chats.append((asked, [*tokenizer(answer, add_special_tokens=False).input_ids, end]))
        length = max(len(question) + len(answer) for question, answer in chats)
        ids = torch.full((len(chats), length), tokenizer.pad_token_id)
        weights = torch.zeros(len(chats), length)
        for row, (asked, answered) in enumerate(chats):
            ids[row, : len(asked) + len(answered)] = torch.tensor(asked + answered)
            weights[row, 1 : len(asked)] = 0.1
            weights[row, len(asked) : len(asked) + len(answered)] = 1.0
        logits = model(input_ids=ids).logits  # causal: the pads behind a chat cannot reach it
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()

    _optimise(model, config, loss, warmup=100, report=report)
    model.eval().save_pretrained(out)


def _chat(rng: random.Random) -> tuple[str, str]:
    scene, choice = sample_scene(rng), rng.random()
    caption = _any_caption(scene, rng)
    if choice < 0.6:
        return caption, explanation(scene, rng)
    index = rng.randrange(len(INSTRUCTIONS))
    return INSTRUCTIONS[index].format(prompt=caption), INSTRUCTION_ANSWERS[index](scene)


def _any_caption(scene: Scene, rng: random.Random) -> str:
    choice = rng.random()
    if choice < 0.25:
        return long_caption(scene, rng)
    naming = "explicit" if choice < 0.35 else "seen" if choice < 0.675 else "held"
    return short_caption(scene, rng, naming)  # type: ignore[arg-type]


def _optimise(model: Any, config: TextConfig, loss: Callable[[], torch.Tensor], *, warmup: int, report: Report) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(config.steps):
        factor = min(1.0, (step + 1) / warmup) * max(0.02, 1 - step / config.steps)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        report(step + 1, float(value.detach()))
