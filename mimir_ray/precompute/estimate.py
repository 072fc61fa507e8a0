"""What a precompute will take, before anything runs: bytes by table, GPU-hours by encoder, shards.

The models are built without weights, from their configurations, and torch counts what they compute. Answers are taken
to be as long as they may be, so the figures are upper bounds but for the assumptions below.
"""

import math
from typing import Any

from mimir_ray.config import Config, UserError
from mimir_ray.model.config import SEMANTIC_TOKENS, ModelConfig
from mimir_ray.model.flops import GPUS, Gpu
from mimir_ray.precompute.components import located, read_config, text_length
from mimir_ray.precompute.config import PrecomputeConfig
from mimir_ray.precompute.inputs import count_inputs, curated_shards
from mimir_ray.storage import absolute

QUERY_TOKENS = 160
"""Of a long caption in the LLM's chat format."""
UTILISATION = 0.4
"""Of a GPU's peak, in convolutions and matrix products."""
BANDWIDTH = 0.6
"""Of a GPU's peak, while an answer is written token by token and the LLM's weights are read for each."""
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
        """Of the largest table's shards, on average."""
        return max(self.bytes_by_table.values()) // self.shards if self.shards else 0


def estimate(
    data: str, model: ModelConfig, config: PrecomputeConfig, *, clips: int | None = None, gpu: str = "H100"
) -> Estimate:
    """What ``precompute`` will take for the clips under ``data``, or for so many ``clips`` like them. Nothing runs.

    Raises:
        UserError: curation is not finished or kept nothing, the GPU is not known, or the model cannot take the size.
    """
    from mimir_ray.model.latents import check_size, latent_shape

    shards = curated_shards(data := absolute(data))
    inputs = count_inputs(data, shards)
    if not inputs["latents"]:
        raise UserError(f"no clip under {data} passed curation; `mimir curate report {data}` says why")
    clips = clips or inputs["latents"]
    share = clips / inputs["latents"]
    captions = math.ceil(inputs["t5_tokens"] * share)
    model = located(model)
    if gpu not in GPUS:
        raise UserError(f"the figures of {gpu!r} are not known; name one of {', '.join(GPUS)}")
    device, item = GPUS[gpu], BYTES[config.dtype]
    vae, transformer = read_config(model, "vae"), read_config(model, "transformer")
    check_size(vae, transformer, config.num_frames, config.height, config.width)
    frames, channels, height, width = latent_shape(vae, transformer, config.num_frames, config.height, config.width)
    tokens = text_length(model)
    sizes = {
        "latents": clips * frames * 2 * channels * height * width * item,
        "t5_tokens": captions * tokens * int(transformer.text_embed_dim) * item,
    }
    seconds = {
        "latents": clips * _compute_s(_vae_flops(vae, config), device),
        "t5_tokens": captions * _compute_s(_t5_flops(model, tokens), device),
    }
    if model.llm is not None and model.fuser.decoder:
        language_width, weights = _language_model(model)
        states = QUERY_TOKENS + config.answers * model.language.max_new_tokens + SEMANTIC_TOKENS
        sizes["llm_tokens"] = captions * states * language_width * item
        seconds["llm_tokens"] = captions * _answering_s(model, config, weights, device)
    hours = {table: second / 3600 for table, second in seconds.items()}
    return Estimate(
        clips=clips,
        captions=captions,
        shards=math.ceil(len(shards) * share),
        gpu=gpu,
        bytes_by_table=sizes,
        gpu_hours_by_table=hours,
    )


def _compute_s(flops: int, gpu: Gpu) -> float:
    return flops / (gpu.tflops * 1e12 * UTILISATION)


def _answering_s(model: ModelConfig, config: PrecomputeConfig, weights: int, gpu: Gpu) -> float:
    """Seconds for one caption: K answers and four instruction answers are written, then read back for their states."""
    answer, batch = model.language.max_new_tokens, config.llm_tokens.batch
    texts = config.answers + SEMANTIC_TOKENS
    read_s = weights * BYTES[model.dtype] / (gpu.memory_tb_per_s * 1e12 * BANDWIDTH)
    written_s = answer * (config.answers + 1) * read_s / batch  # the four of an instruction are written side by side
    return written_s + _compute_s(2 * weights * texts * 2 * (QUERY_TOKENS + answer), gpu)


def _vae_flops(vae: Any, config: PrecomputeConfig) -> int:
    import torch
    from diffusers import AutoencoderKLCogVideoX
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        made: Any = AutoencoderKLCogVideoX.from_config(vars(vae))
        made.encode(torch.zeros(1, int(vae.in_channels), config.num_frames, config.height, config.width))
    return int(counter.get_total_flops())


def _t5_flops(model: ModelConfig, tokens: int) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        made: Any = T5EncoderModel(T5Config.from_dict(vars(read_config(model, "text_encoder"))))
        made(input_ids=torch.zeros(1, tokens, dtype=torch.long))
    return int(counter.get_total_flops())


def _language_model(model: ModelConfig) -> tuple[int, int]:
    """Width of the LLM's states, and how many weights a token passes through: all but the table of embeddings."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model.llm, revision=model.llm_revision)
    with torch.device("meta"):
        made: Any = AutoModelForCausalLM.from_config(config)
    weights = sum(math.prod(parameter.shape) for parameter in made.parameters())
    embeddings = made.get_input_embeddings().weight.numel() if not config.tie_word_embeddings else 0
    return int(config.get_text_config().hidden_size), weights - embeddings
