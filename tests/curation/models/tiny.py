"""Tiny random models of the classes that curation loads, saved as their checkpoints are on the hub.

clip = tiny_clip(tmp_path / "clip")             # a CLIPModel: frames of 32 x 32, 12 tokens, features of width 24
head = tiny_head(tmp_path / "head.pth", 24)     # the LAION head's layers and keys
vlm = tiny_vlm(tmp_path / "vlm")                # a Qwen2-VL that spells in bytes, with Yes and no in its vocabulary
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

CLIP_WIDTH = 24
CLIP_TOKENS = 12
VLM_MARKS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
VLM_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_clip(path: Path) -> Path:
    """Save a random CLIP whose words are letters and return ``path``."""
    letters = "abcdefghijklmnopqrstuvwxyz.,!?"
    vocabulary = {word: i for i, word in enumerate([*letters, "<unk>", "<|startoftext|>", "<|endoftext|>"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    words.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", start), ("<|endoftext|>", end)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    body: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": CLIP_TOKENS, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**body, **text, "bos_token_id": start, "eos_token_id": end, "pad_token_id": end},
        vision_config={**body, "image_size": 32, "patch_size": 8, "num_attention_heads": 2},
        projection_dim=CLIP_WIDTH,
    )
    torch.manual_seed(0)
    CLIPModel(config).eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(path)
    return path


def head_layers(width: int) -> nn.Sequential:
    """The published head, layer for layer."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    ).eval()


def tiny_head(path: Path, width: int) -> Path:
    """Save a random head with the keys of the published file and return ``path``."""
    torch.save({f"layers.{name}": value for name, value in head_layers(width).state_dict().items()}, path)
    return path


def tiny_vlm(path: Path, *, chat_template: bool = True) -> Path:
    """Save a random Qwen2-VL in the layout of the hub and return ``path``."""
    alphabet = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    letters = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(VLM_MARKS),
    )
    tokenizer.add_tokens(["Yes", "yes", " Yes", "No", "no"])
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in VLM_MARKS}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(2)
    model = Qwen2VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # a fresh model hardly looks at its input: make its answers differ
    # What the hub's Qwen2-VL carries; a description must not inherit it.
    model.generation_config.update(do_sample=True, temperature=0.01, top_k=1, repetition_penalty=1.5)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    pixels = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, size=pixels).save_pretrained(path)
    if chat_template:
        (path / "chat_template.jinja").write_text(VLM_TEMPLATE)
    return path
