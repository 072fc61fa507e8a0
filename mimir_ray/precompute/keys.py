"""What the rows of each table depend on: the configuration that `Table.begin` compares.

Each table has a key of its own, so that another LLM makes `llm_tokens` stale and leaves the other tables alone.
How many actors made a row, in which batch and whether slice by slice is in none of them.
"""

from typing import Any, Literal

from mimir_ray.config import Config
from mimir_ray.model.config import LanguageConfig, ModelConfig
from mimir_ray.precompute.components import identity, text_length
from mimir_ray.precompute.config import PrecomputeConfig, Size


class LatentsKey(Config):
    """VAE and its tiles, frame selection and number formats."""

    vae: str
    sizes: tuple[Size, ...]
    sample_fps: float | None
    tiling: bool
    compute_dtype: str
    dtype: str


class T5Key(Config):
    """T5 with its tokenizer, length and number formats."""

    text_encoder: str
    text_length: int
    compute_dtype: str
    dtype: str


class RejectingT5Key(T5Key):
    """`T5Key` where long captions are rejected. Where they are truncated the key says nothing of it, as ever."""

    long_captions: Literal["reject"]


class LLMKey(Config):
    """LLM with its tokenizer, what it is asked, how often and with which seed, and number formats."""

    llm: str
    language: LanguageConfig
    answers: int
    seed: int
    compute_dtype: str
    dtype: str


class AnswersKey(Config):
    """What an engine is asked, how often and with which seed, and in which number format it computes."""

    engine: Literal["vllm"]
    llm: str
    language: dict[str, Any]
    """All but what is made of the answers."""
    answers: int
    seed: int
    compute_dtype: str


class EngineLLMKey(LLMKey):
    """`LLMKey` where an engine wrote the answers. Without one the key has no engine, as before there were any."""

    engine: Literal["vllm"]


def table_keys(model: ModelConfig, config: PrecomputeConfig) -> dict[str, Config]:
    """Key of every table that a run with these configurations writes, in the order in which they are made.

    There is no `llm_tokens` without an LLM branch, and no `answers` where transformers writes them.
    """
    formats: dict[str, Any] = {"compute_dtype": model.dtype, "dtype": config.dtype}
    t5: dict[str, Any] = {
        "text_encoder": identity(model.base, model.revision, "text_encoder", "tokenizer"),
        "text_length": text_length(model),
    }
    truncates = config.long_captions == "truncate"
    keys: dict[str, Config] = {
        "latents": LatentsKey(
            vae=identity(model.base, model.revision, "vae"),
            sizes=config.sizes,
            sample_fps=config.sample_fps,
            tiling=config.vae_tiling,
            **formats,
        ),
        "t5_tokens": T5Key(**t5, **formats) if truncates else RejectingT5Key(**t5, **formats, long_captions="reject"),
    }
    if model.llm is not None and model.fuser.decoder:
        llm = identity(model.llm, model.llm_revision)
        sampling: dict[str, Any] = {"llm": llm, "answers": config.answers, "seed": config.seed}
        if config.engine == "transformers":
            keys["llm_tokens"] = LLMKey(language=model.language, **sampling, **formats)
        else:
            sampling["engine"] = config.engine
            language = model.language.model_dump(mode="json", exclude={"instruction_pooling"})
            keys["answers"] = AnswersKey(language=language, compute_dtype=model.dtype, **sampling)
            keys["llm_tokens"] = EngineLLMKey(language=model.language, **sampling, **formats)
    return keys
