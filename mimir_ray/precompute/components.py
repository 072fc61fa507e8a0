"""The parts of a checkpoint that precompute needs, each alone: an actor loads one encoder, never the whole pipeline."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mimir_ray.model.base import check_base, read_json, variant_of
from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute.config import PrecomputeConfig
from mimir_ray.storage import content_id, file_id


def check_model(model: ModelConfig, config: PrecomputeConfig) -> None:
    """Raise UserError where the base cannot be run, or cannot make one of the sizes."""
    from mimir_ray.model.latents import check_size

    found = check_base(model.base, model.revision)
    vae, transformer = SimpleNamespace(**found.vae), SimpleNamespace(**found.transformer)
    for size in config.sizes:
        check_size(vae, transformer, size.num_frames, size.height, size.width)


def read_config(model: ModelConfig, part: str) -> SimpleNamespace:
    """The configuration of ``part`` ("vae", "transformer") of the base, without loading its weights.

    Raises UserError where the base has no such part.
    """
    return SimpleNamespace(**read_json(model.base, f"{part}/config.json", model.revision))


def identity(name: str, revision: str | None, *parts: str) -> str:
    """What a cached row depends on: the content of those subfolders of a checkpoint directory (of all of it without
    ``parts``), wherever the directory lies; or the hub id with its revision."""
    root = Path(name)
    if not root.is_dir():
        return f"{name}@{revision or 'main'}"
    files = sorted(path for part in parts or (".",) for path in (root / part).rglob("*") if path.is_file())
    return content_id(*(text for path in files for text in (path.relative_to(root).as_posix(), file_id(path))))


def text_length(model: ModelConfig) -> int:
    """T5 tokens of the text condition; the transformer of a Mimir may have room for more than its fuser reads."""
    if Path(model.base, "token_fuser").is_dir():
        return int(read_config(model, "token_fuser").text_length)
    return model.fuser.text_length or int(read_config(model, "transformer").max_text_seq_length)


def device(num_gpus: float) -> str:
    """Where an actor that reserves ``num_gpus`` computes; one without a GPU uses the one thread that it has."""
    import torch

    if num_gpus > 0:
        return "cuda"
    torch.set_num_threads(1)
    return "cpu"


def load_vae(model: ModelConfig, num_gpus: float, *, tiling: bool = False, slicing: bool = False) -> Any:
    """The base's VAE."""
    import torch
    from diffusers import AutoencoderKLCogVideoX

    from mimir_ray.model.latents import tile

    load: Any = AutoencoderKLCogVideoX.from_pretrained
    where = {"revision": model.revision, "variant": variant_of(model.base, "vae")}
    vae = load(model.base, subfolder="vae", dtype=getattr(torch, model.dtype), **where)
    if tiling:
        tile(vae)
    if slicing:
        vae.enable_slicing()
    return vae.to(device(num_gpus)).eval()


def load_t5(model: ModelConfig, num_gpus: float) -> Any:
    """The base's T5 as a branch."""
    import torch

    from mimir_ray.model.text_branches import T5Branch

    dtype = getattr(torch, model.dtype)
    branch = T5Branch.of_base(model.base, text_length(model), dtype=dtype, revision=model.revision)
    branch.encoder.to(device(num_gpus))
    return branch


def load_t5_tokenizer(model: ModelConfig) -> Any:
    """What the base's T5 counts and truncates captions with."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model.base, subfolder="tokenizer", revision=model.revision)


@dataclass(frozen=True)
class LLMReader:
    """How the language model is asked, without its weights."""

    tokenizer: Any
    stop_ids: list[int]
    context: int | None
    """Tokens of a question and its answer together; None is no limit."""


def load_llm_reader(model: ModelConfig) -> LLMReader:
    """What `load_llm` reads of the checkpoint to ask a question."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    from mimir_ray.model.questions import stop_ids

    config = AutoConfig.from_pretrained(model.llm, revision=model.llm_revision)
    try:
        generation = GenerationConfig.from_pretrained(model.llm, revision=model.llm_revision)
    except OSError:  # a checkpoint without that file
        generation = GenerationConfig.from_model_config(config)
    tokenizer = AutoTokenizer.from_pretrained(model.llm, revision=model.llm_revision)
    return LLMReader(tokenizer, stop_ids(tokenizer, generation), getattr(config, "max_position_embeddings", None))


def load_llm(model: ModelConfig, num_gpus: float) -> Any:
    """The language model as a branch."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mimir_ray.model.text_branches import LLMBranch

    load: Any = AutoModelForCausalLM.from_pretrained
    llm = load(model.llm, revision=model.llm_revision, dtype=getattr(torch, model.dtype))
    tokenizer = AutoTokenizer.from_pretrained(model.llm, revision=model.llm_revision)
    return LLMBranch(tokenizer, llm.to(device(num_gpus)).eval(), model.language)
