"""Byte-level BPE tokenizers of the shapes language: any text has tokens, and every word of the world is one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mimir_ray.model.config import LanguageConfig
from mimir_ray.shapes import language
from mimir_ray.shapes.world import sample_scene

PAD, END, USER, ASSISTANT = "<pad>", "<|end|>", "<|user|>", "<|assistant|>"
T5_END = "</s>"
INSTRUCTIONS = LanguageConfig().instructions

_CORPUS_SCENES = 6000
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_t5_tokenizer(out: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the T5 encoder; ends every text with `</s>`."""
    tokenizer = _train([PAD, T5_END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {T5_END}", special_tokens=[(T5_END, tokenizer.token_to_id(T5_END))]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=T5_END)
    fast.save_pretrained(out)
    return fast


def train_llm_tokenizer(out: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the LLM, with a chat template of Phi's form."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=_train([PAD, END, USER, ASSISTANT]),
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
    )
    fast.chat_template = _CHAT_TEMPLATE
    fast.save_pretrained(out)
    return fast


def _train(special_tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=20,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _corpus() -> Iterator[str]:
    rng = random.Random(0)
    for _ in range(_CORPUS_SCENES):
        scene = sample_scene(rng)
        yield language.long_caption(scene, rng)
        for naming in ("seen", "held", "explicit"):
            yield language.short_caption(scene, rng, naming)
        yield language.explanation(scene, rng)
        for answer in language.INSTRUCTION_ANSWERS:
            yield answer(scene)
        for instruction in INSTRUCTIONS:
            yield instruction.format(prompt=language.short_caption(scene, rng, rng.choice(("seen", "held"))))
        yield f"{scene.things[0].colour} {scene.things[0].shape}"
