"""Tiny random models of the real classes, saved in diffusers' and transformers' layouts, for tests of every room.

base = tiny_base(tmp_path / "base")             # a CogVideoX checkpoint: 9 frames of 64 x 64, latents 3 x 16 x 8 x 8
llm = tiny_llm(tmp_path / "llm")                # a Phi3 with tokenizer and chat template
mimir = tiny_mimir(tmp_path / "mimir")          # a MimirPipeline layout
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from mimir_ray.model.config import FuserConfig, LanguageConfig
from mimir_ray.model.pipeline import MimirPipeline

TEXT_LENGTH = 24
"""Text tokens of the tiny base."""
TEXT_DIM = 32
LLM_DIM = 24
LATENT_CHANNELS = 16
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = [
    *("a", "an", "the", "and", "of", "in", "to", "is", "are", "it", "one", "two", "three", "small", "big", "something"),
    *("video", "describe", "objects", "object", "colours", "colour", "motion", "order", "time", "spatial", "relations"),
    *("red", "green", "blue", "yellow", "white", "purple", "crimson", "azure", "circle", "square", "triangle", "ball"),
    *("moves", "rolls", "still", "left", "right", "up", "down", "then", "above", "below", "beside", "between", "over"),
    *("box", "wedge", ".", ",", ":", "?"),
]


def tiny_t5_tokenizer() -> PreTrainedTokenizerFast:
    """Words, with an end token, as T5's."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = _words(vocabulary)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def tiny_llm_tokenizer() -> PreTrainedTokenizerFast:
    """Words with Phi-3's chat marks."""
    marks = ["<pad>", "<|endoftext|>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>"]
    vocabulary = {word: i for i, word in enumerate([*marks, *WORDS])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_words(vocabulary),
        pad_token="<pad>",
        eos_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|end|>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


ONE_POINT_FIVE: dict[str, Any] = {"patch_size_t": 2, "patch_bias": False}
"""What sets CogVideoX 1.5 apart from the 5B: two latent frames in a patch."""


def tiny_transformer(
    *, rotary: bool = False, text_length: int = TEXT_LENGTH, **settings: Any
) -> CogVideoXTransformer3DModel:
    """2B style (sincos) or 5B style (rotary): 2 layers of width 32, with every weight random."""
    torch.manual_seed(0)
    usual: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "time_embed_dim": 16,
        "text_embed_dim": TEXT_DIM,
        "num_layers": 2,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 9,
        "max_text_seq_length": text_length,
        "spatial_interpolation_scale": 1.0,
        "use_rotary_positional_embeddings": rotary,
    }
    return CogVideoXTransformer3DModel(**usual | settings).eval()


def tiny_vae() -> AutoencoderKLCogVideoX:
    """8 x 8 x 4 compression, 16 latent channels."""
    torch.manual_seed(1)
    model = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=64,
        sample_width=64,
        scaling_factor=0.7,
    )
    return model.eval()


def tiny_scheduler(
    *, dpm: bool = False, snr_shift_scale: float = 3.0
) -> CogVideoXDDIMScheduler | CogVideoXDPMScheduler:
    """The settings of the CogVideoX checkpoints."""
    scheduler = CogVideoXDPMScheduler if dpm else CogVideoXDDIMScheduler
    return scheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=snr_shift_scale,
        timestep_spacing="trailing",
        clip_sample=False,
    )


def tiny_base(path: Path, *, rotary: bool = False, dpm: bool = False, **settings: Any) -> Path:
    """Save a random CogVideoX checkpoint, its transformer with these ``settings``, and return ``path``."""
    torch.manual_seed(2)
    tokenizer = tiny_t5_tokenizer()
    encoder = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=TEXT_DIM, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    )
    pipeline = CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder.eval(),
        vae=tiny_vae(),
        transformer=tiny_transformer(rotary=rotary, **settings),
        scheduler=tiny_scheduler(dpm=dpm, snr_shift_scale=1.0 if rotary else 3.0),
    )
    pipeline.save_pretrained(path)
    return path


def tiny_llm(path: Path) -> Path:
    """Save a random Phi3 with its tokenizer and return ``path``."""
    torch.manual_seed(3)
    tokenizer = tiny_llm_tokenizer()
    config = Phi3Config(
        vocab_size=len(tokenizer),
        hidden_size=LLM_DIM,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        original_max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=[1, 5],
        pad_token_id=0,
    )
    Phi3ForCausalLM(config).eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def tiny_mimir(path: Path, fuser: FuserConfig | None = None, *, rotary: bool = False, dpm: bool = False) -> Path:
    """Save a fresh Mimir on a tiny base and LLM (kept beside it) and return ``path``."""
    base = tiny_base(path.with_name(f"{path.name}_base"), rotary=rotary, dpm=dpm)
    llm = tiny_llm(path.with_name(f"{path.name}_llm"))
    language = LanguageConfig(max_new_tokens=8)
    torch.manual_seed(4)
    MimirPipeline.from_base(base, llm, fuser, language).save_pretrained(path)
    return path


def frames_of(pipeline: MimirPipeline, prompt: str | list[str], **settings: Any) -> np.ndarray:
    """What a call of the pipeline makes, B F H W 3 uint8; with seed 0 unless ``settings`` has another."""
    videos = pipeline(prompt, **{"seed": 0} | settings).frames
    return np.stack([np.stack([np.asarray(image) for image in video]) for video in videos])


def _words(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer
