"""What a training run needs of memory, from configurations alone: no weight is read and no GPU is asked.

Four parts. **States** follow what DeepSpeed's classes allocate: ZeRO-1 in bf16 is its ``BF16_Optimizer``, everything
else ``DeepSpeedZeroOptimizer`` (stages 1 and 2) or ``DeepSpeedZeroOptimizer_Stage3``. **Activations** are counted in
units of one tensor of tokens x width. **Buffers** are those in which ZeRO gathers and reduces, at DeepSpeed's default
sizes. **Runtime** is what a process holds before it holds a model.

DeepSpeed has estimators of its own (``estimate_zero2_model_states_mem_needs``, ``estimate_zero3_...``). Under ZeRO-3
they count the same 18 bytes a parameter as we do: 2 for the weight, 4 each for gradient, master weight and both of
AdamW's moments. They know no ZeRO-1, no float32 weights, no moving average (4 bytes more), no frozen parameters (a
weight and nothing else), no activations and no buffers; and their 2 bytes for a bf16 gradient under ZeRO-2 are buffers
here. What they add for the rounding of pinned main memory, half as much again, is left out: it depends on sizes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from mimir_ray.config import UserError
from mimir_ray.model.base import read_base
from mimir_ray.model.config import ModelConfig
from mimir_ray.model.flops import count_video_tokens
from mimir_ray.training.config import TrainingConfig

GIB = 2**30
REDUCE_BUCKET = 500_000_000
"""Elements that ZeRO reduces at once: DeepSpeed's ``reduce_bucket_size``, which it allocates whole."""
LIVE_PARAMETERS = 1_000_000_000
"""Elements of weights that ZeRO-3 keeps gathered: DeepSpeed's ``stage3_max_live_parameters``."""
SUB_GROUP = 1_000_000_000
"""Elements that ZeRO-3 updates at once: DeepSpeed's ``sub_group_size``."""
GPU_RUNTIME = 1 * GIB
"""CUDA's context, cuBLAS's workspace and NCCL's channels."""
HOST_RUNTIME = GIB * 3 // 4
"""Python with torch, Ray and DeepSpeed: 0.51 GiB after the imports, and their threads and sockets."""

_ITEM = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Sizes:
    """What memory depends on of a model."""

    transformer: Mapping[str, Any]
    """Its configuration."""
    transformer_weights: int
    fuser_weights: int
    linears: tuple[tuple[str, int], ...]
    """Name of each linear layer of the transformer, and the sum of its two widths."""
    text_tokens: int

    @classmethod
    def of(cls, transformer: Any, token_fuser: Any) -> Self:
        """Count what was built, on the meta device or any other; adapters on it are not meant."""
        from torch import nn

        return cls(
            transformer=dict(transformer.config),
            transformer_weights=sum(weight.numel() for weight in transformer.parameters()),
            fuser_weights=sum(weight.numel() for weight in token_fuser.parameters()),
            linears=tuple(
                (name, module.in_features + module.out_features)
                for name, module in transformer.named_modules()
                if isinstance(module, nn.Linear)
            ),
            text_tokens=token_fuser.sequence_length,
        )

    @property
    def weights(self) -> int:
        """The number of weights of transformer and token fuser together."""
        return self.transformer_weights + self.fuser_weights

    @property
    def width(self) -> int:
        return int(self.transformer["num_attention_heads"]) * int(self.transformer["attention_head_dim"])

    @property
    def layers(self) -> int:
        return int(self.transformer["num_layers"])

    def tokens(self, latent_shape: tuple[int, int, int, int]) -> int:
        """Text and video tokens of a sample of latents T C h w."""
        return self.text_tokens + count_video_tokens(self.transformer, latent_shape)

    def adapted(self, config: TrainingConfig) -> list[tuple[str, int]]:
        """The linear layers that get an adapter."""
        if config.train != "lora":
            return []
        ends = config.lora.targets
        return [(name, both) for name, both in self.linears if any(f".{name}".endswith(f".{end}") for end in ends)]

    def adapters(self, config: TrainingConfig) -> int:
        """Weights of the adapters."""
        return config.lora.rank * sum(both for _, both in self.adapted(config))

    def trained(self, config: TrainingConfig) -> int:
        """Weights that learn."""
        learns = self.transformer_weights if config.train == "full" else self.adapters(config)
        return self.fuser_weights + learns


@dataclass(frozen=True)
class Memory:
    """Bytes that one worker needs of its device, by part, and of main memory.

    Without a GPU the device is main memory, and ``host`` is ``total``.
    """

    weights: int
    gradients: int
    """Float32, in which they are summed."""
    optimizer: int
    """Master weights, AdamW's two moments and the moving average, all float32."""
    activations: int
    """At the start of the backward pass; or, where it is more, the gradients and copies that its end makes, when
    activations are gone."""
    buffers: int
    runtime: int
    host: int

    @property
    def total(self) -> int:
        """The bytes of the device, all parts together."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.buffers + self.runtime

    def __str__(self) -> str:
        names = ("weights", "gradients", "optimizer", "activations", "buffers", "runtime")
        return ", ".join(f"{name} {getattr(self, name) / GIB:.1f}" for name in names)


def read_sizes(model: ModelConfig) -> Sizes:
    """Count the parameters of a checkpoint whose weights are not read: they are made without memory.

    Raises:
        UserError: no such checkpoint or language model, or one that cannot be run.
    """
    import torch
    from diffusers import CogVideoXTransformer3DModel
    from transformers import AutoConfig

    from mimir_ray.model.token_fuser import TokenFuser, room_for_text

    base, where = model.base, {"revision": model.revision}
    make: Any = CogVideoXTransformer3DModel.from_config
    found = read_base(base, model.revision)
    config = found.transformer
    try:
        with torch.device("meta"):
            if found.is_mimir:
                fuser = TokenFuser.from_config(TokenFuser.load_config(base, subfolder="token_fuser", **where))
            else:
                width = 0
                if model.fuser.decoder and model.llm is not None:
                    llm = AutoConfig.from_pretrained(model.llm, revision=model.llm_revision)
                    width = int(llm.get_text_config().hidden_size)
                fuser = TokenFuser.build(
                    model.fuser,
                    text_dim=int(config["text_embed_dim"]),
                    llm_dim=width,
                    text_length=int(config["max_text_seq_length"]),
                )
            transformer = make(config, **room_for_text(config, fuser.sequence_length, base))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read the configurations of {base} and {model.llm}: {str(error).splitlines()[0].rstrip('.')}; set "
            "model.base to a CogVideoX or Mimir checkpoint and model.llm to a language model (to their directories "
            "where the hub cannot be reached)"
        ) from error
    return Sizes.of(transformer, fuser)


def estimate_memory(
    sizes: Sizes,
    config: TrainingConfig,
    latent_shape: tuple[int, int, int, int],
    *,
    gpu: bool,
    workers: int | None = None,
) -> Memory:
    """What each worker needs for batches of latents T C h w; with ``offload`` what waits in main memory.

    The tables that are read and what ``torch.compile`` saves are left out.

    Args:
        workers: among whom states are shared, where they are not all of ``config.workers``: fewer of them compute as
            many samples at once, more often.
    """
    states = _states(sizes, config, workers or config.workers)
    samples = config.batch_size // (config.workers * config.accumulate)
    activations = activation_bytes(sizes, config, latent_shape, samples)
    buffers = _buffers(sizes, config, gpu=gpu)
    runtime = GPU_RUNTIME if gpu else HOST_RUNTIME
    made = replace(states, activations=max(activations, states.activations), buffers=buffers, runtime=runtime)
    if not gpu:
        everything = made.total + states.host
        return replace(made, host=everything)
    loaded = 4 * sizes.weights  # every worker reads the checkpoint in float32 before its GPU gets it
    return replace(made, host=HOST_RUNTIME + max(loaded, states.host))


def activation_bytes(
    sizes: Sizes, config: TrainingConfig, latent_shape: tuple[int, int, int, int], samples: int
) -> int:
    """Peak of the activations of ``samples`` at once, from the start of the backward pass through the last layer.

    In units of samples x tokens x width, a block of ``CogVideoXTransformer3DModel`` keeps for its backward pass, with
    an attention that stores no scores:

        9     attention: q, k, v, q and k before their norms, the output, as a copy for its projection, and projected;
              the input of q, k and v
        4     the two adaptive norms: their inputs, and what their scale multiplies
        1     input of the feed-forward layers
        9     feed-forward layers: 4 before and 4 after the activation, and the output

    23 in all. Frozen linear layers and modulations do not keep their inputs, which leaves 12; adapters bring back the
    inputs of the layers that they adapt, and their own inner states. With gradient checkpointing a block keeps its
    input alone, and one block at a time is whole. Beside the blocks, 4 units (2 frozen); gradients on their way through
    a block take 3 more, and 7 where none of the block's own activations is freed for them.
    """
    unit = samples * sizes.tokens(latent_shape) * sizes.width * _ITEM[config.precision]
    if config.train == "full":
        block, outside, way = 23.0, 4, 3
    else:
        block, outside, way = 12.0 + _kept_by_adapters(sizes, config), 2, 7
    kept, whole = (1.0, block) if config.gradient_checkpointing else (block, 0.0)
    return math.ceil(unit * (outside + sizes.layers * kept + whole + way))


def _kept_by_adapters(sizes: Sizes, config: TrainingConfig) -> float:
    inputs = {"to_q": 1, "to_k": 1, "to_v": 1, "to_out.0": 1, "ff.net.0.proj": 1, "ff.net.2": 4}
    shared = {"to_k": "to_q", "to_v": "to_q"}  # three layers, one input
    first = [name for name, _ in sizes.adapted(config) if name.startswith("transformer_blocks.0.")]
    found = {next((end for end in inputs if name.endswith(end)), "") for name in first} - {""}
    units = sum(inputs[end] for end in {shared.get(end, end) for end in found})
    return units + len(first) * config.lora.rank / sizes.width


def _states(sizes: Sizes, config: TrainingConfig, workers: int) -> Memory:
    """Weights, gradients and optimiser; in ``activations`` the copies of gradients at the end of a step, in ``host``
    what offloading keeps in main memory."""
    item, stage = _ITEM[config.precision], config.zero_stage
    trained, adapters = sizes.trained(config), sizes.adapters(config)
    own = math.ceil(trained / workers)
    weights = item * (sizes.weights + adapters)
    held = math.ceil(weights / workers) if stage == 3 else weights
    moments = (12 if config.ema_decay else 8) * own
    if config.offload == "none":
        gradients = 4 * (trained if stage == 1 else own)
        optimizer = moments + 4 * own
        if stage == 1 and config.precision == "bf16":
            copies = item * trained
        elif stage == 2 and config.precision == "bf16":
            copies = 0
        else:
            copies = 4 * min(own, SUB_GROUP) if stage == 3 else 4 * own
        return Memory(held, gradients, optimizer, copies, 0, 0, host=0)
    on_device = {1: 4 * trained, 2: 4 * own if config.precision == "bf16" else 0, 3: 0}[stage]
    aside = moments + 4 * own + 4 * own + (4 if stage == 3 else item) * own
    if config.offload == "all":
        return Memory(0, on_device, 0, 0, 0, 0, host=aside + held)
    return Memory(held, on_device, 0, 0, 0, 0, host=aside)


def _buffers(sizes: Sizes, config: TrainingConfig, *, gpu: bool) -> int:
    """The bytes of the buffers in which gradients are reduced, in float32, and weights gathered."""
    item, stage = _ITEM[config.precision], config.zero_stage
    trained = min(sizes.trained(config), REDUCE_BUCKET)
    if stage == 3:
        gathered = item * min(sizes.weights + sizes.adapters(config), LIVE_PARAMETERS)
        return gathered + 4 * trained + (4 * REDUCE_BUCKET if gpu else item * trained)
    if not gpu:
        return (item + 4) * trained
    if stage == 1 and config.precision == "bf16" and config.offload == "none":
        return 4 * trained
    staged = 4 if stage == 1 else item  # two of them, so that one is filled while the other is reduced
    return 2 * staged * REDUCE_BUCKET + (4 * trained if staged != 4 else 0)
