"""What a precompute will take, before anything runs: bytes by table, GPU-hours by encoder, shards.

The models are built without weights, from their configurations, and torch counts what they compute. Answers are taken
to be as long as they may be and batches to be full; the constants below are the other assumptions.
"""

import math
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from mimir_ray.config import Config, UserError
from mimir_ray.model.base import read_base
from mimir_ray.model.config import SEMANTIC_TOKENS, ModelConfig
from mimir_ray.model.flops import GPUS, Gpu
from mimir_ray.model.published import described
from mimir_ray.precompute.components import read_config, text_length
from mimir_ray.precompute.config import PrecomputeConfig, Size
from mimir_ray.precompute.frames import TooShort, choose_size, nearest_sizes
from mimir_ray.precompute.inputs import ok_captions, ok_clips
from mimir_ray.precompute.shard_plan import enough_shards, plan_shards
from mimir_ray.records import Clip
from mimir_ray.storage import absolute

QUERY_TOKENS = 160
"""The tokens of a long caption in the LLM's chat format."""
UTILISATION = 0.4
"""The share of a GPU's peak that convolutions and matrix products reach."""
BANDWIDTH = 0.6
"""The share of a GPU's bandwidth while an answer is written and the LLM's weights are read for each token."""
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class Estimate(Config):
    """Storage and time of a whole precompute."""

    clips: int
    captions: int
    shards: int
    gpu: str
    bytes_by_table: dict[str, int]
    gpu_hours_by_table: dict[str, float]

    @property
    def shard_bytes(self) -> int:
        """The bytes of a shard of the largest table, on average."""
        return max(self.bytes_by_table.values()) // self.shards if self.shards else 0


def estimate(
    data: str | None, model: ModelConfig, config: PrecomputeConfig, *, clips: int | None = None, gpu: str = "H100"
) -> Estimate:
    """What ``precompute`` will take for the clips under ``data``, or for so many ``clips`` like them. Nothing runs.

    Without ``data`` a clip has one caption and the configuration's first size. The hub is asked for models that no
    recipe names alone.

    Raises:
        UserError: curation is not finished or kept nothing, the GPU is not known, or the model cannot be run or cannot
            take the size.
    """
    from mimir_ray.model.latents import check_size

    sample = _sample_of(data, config) if data else _Sample(Counter({config.sizes[0]: 1}), captions=1, shards=1)
    placed, there = sample.placed, sample.placed.total()
    clips = clips or there
    share = clips / there
    captions = math.ceil(sample.captions * share)
    model = described(model.located())
    if gpu not in GPUS:
        raise UserError(f"the figures of {gpu!r} are not known; name one of {', '.join(GPUS)}")
    device, item = GPUS[gpu], BYTES[config.dtype]
    base = read_base(model.base, model.revision)
    vae, transformer = SimpleNamespace(**base.vae), SimpleNamespace(**base.transformer)
    for size in config.sizes:
        check_size(vae, transformer, size.num_frames, size.height, size.width)
    tokens = text_length(model)
    moments = sum(count * _moments(vae, size) for size, count in placed.items()) * item
    sizes = {
        "latents": clips * moments // there,
        "t5_tokens": captions * tokens * int(transformer.text_embed_dim) * item,
    }
    flops = sum(count * _vae_flops(vae, size, config.vae_tiling) for size, count in placed.items())
    seconds = {
        "latents": share * _compute_s(flops, model, device),
        "t5_tokens": captions * _compute_s(_t5_flops(model, tokens), model, device),
    }
    if model.llm is not None and model.fuser.decoder:
        llm = _language_model(model)
        states = QUERY_TOKENS + config.answers * model.language.max_new_tokens + SEMANTIC_TOKENS
        sizes["llm_tokens"] = captions * states * llm.width * item
        seconds["llm_tokens"] = captions * _answering_s(model, config, llm, device)
    hours = {table: second / 3600 for table, second in seconds.items()}
    return Estimate(
        clips=clips,
        captions=captions,
        shards=sample.shards if clips == there else enough_shards(clips, config.clips_per_shard),
        gpu=gpu,
        bytes_by_table=sizes,
        gpu_hours_by_table=hours,
    )


@dataclass(frozen=True)
class _Sample:
    """Clips from which all others are told: how many of each size, with how many captions, in how many shards."""

    placed: Counter[Size]
    captions: int
    shards: int


def _sample_of(data: str, config: PrecomputeConfig) -> _Sample:
    shards = plan_shards(data := absolute(data), config.clips_per_shard)
    placed = Counter(_size_of(clip, config) for planned in shards for clip in ok_clips(data, planned))
    if not placed:
        raise UserError(f"no clip under {data} passed curation; `mimir curate report {data}` says why")
    return _Sample(placed, sum(len(ok_captions(data, planned)) for planned in shards), len(shards))


def _compute_s(flops: int, model: ModelConfig, gpu: Gpu) -> float:
    return flops / (gpu.peak(model.dtype) * 1e12 * UTILISATION)


@dataclass(frozen=True)
class _LanguageModel:
    width: int
    weights: int
    """The weights that a token passes through: all but the table of embeddings."""
    cached: int
    """Keys and values of a token, over all layers."""


def _answering_s(model: ModelConfig, config: PrecomputeConfig, llm: _LanguageModel, gpu: Gpu) -> float:
    """Seconds for one caption: K answers and four instruction answers are written, then read back for their states.

    A step of writing reads every weight once, and the keys and values of every row so far.
    """
    answer, batch = model.language.max_new_tokens, config.llm_tokens.batch
    rows = config.answers * batch + SEMANTIC_TOKENS * batch
    numbers = (config.answers + 1) * llm.weights + rows * (QUERY_TOKENS + answer / 2) * llm.cached
    written_s = answer * numbers * BYTES[model.dtype] / (gpu.memory_tb_per_s * 1e12 * BANDWIDTH) / batch
    texts = config.answers + SEMANTIC_TOKENS
    return written_s + _compute_s(2 * llm.weights * texts * 2 * (QUERY_TOKENS + answer), model, gpu)


def _size_of(clip: Clip, config: PrecomputeConfig) -> Size:
    """A clip too short for every size is counted with the last that was tried."""
    try:
        return choose_size(clip, config)[0]
    except TooShort:
        return nearest_sizes(clip, config)[-1]


def _moments(vae: Any, size: Size) -> int:
    """Numbers that are stored of a clip."""
    from mimir_ray.model.latents import spatial_factor

    frames = (size.num_frames - 1) // int(vae.temporal_compression_ratio) + 1
    return frames * 2 * int(vae.latent_channels) * (size.height * size.width // spatial_factor(vae) ** 2)


def _vae_flops(vae: Any, size: Size, tiling: bool) -> int:
    import torch
    from diffusers import AutoencoderKLCogVideoX
    from torch.utils.flop_counter import FlopCounterMode

    from mimir_ray.model.latents import tile

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        made: Any = AutoencoderKLCogVideoX.from_config(vars(vae))
        if tiling:
            tile(made)
        made.encode(torch.zeros(1, int(vae.in_channels), size.num_frames, size.height, size.width))
    return int(counter.get_total_flops())


def _t5_flops(model: ModelConfig, tokens: int) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        made: Any = T5EncoderModel(T5Config.from_dict(vars(read_config(model, "text_encoder"))))
        made(input_ids=torch.zeros(1, tokens, dtype=torch.long))
    return int(counter.get_total_flops())


def _language_model(model: ModelConfig) -> _LanguageModel:
    """Raises UserError for one that cannot be read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(model.llm, revision=model.llm_revision)
    except (OSError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"cannot read model.llm={model.llm}: {cause}; name a model's directory or hub id") from error
    with torch.device("meta"):
        made: Any = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    weights = sum(math.prod(parameter.shape) for parameter in made.parameters())
    embeddings = 0 if text.tie_word_embeddings else made.get_input_embeddings().weight.numel()
    heads = int(text.num_attention_heads)
    head_dim = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    cached = 2 * int(text.num_hidden_layers) * kv_heads * head_dim
    return _LanguageModel(width=int(text.hidden_size), weights=weights - embeddings, cached=cached)
