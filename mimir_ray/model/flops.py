"""How much the video transformer computes, from its configuration alone.

A multiplication and an addition count as two operations. Norms, activations and positions are left out, as torch's own
counter leaves them out: together they are less than a hundredth.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """What a GPU can do at most, by its maker's data sheet."""

    tflops: float
    """Dense, in bfloat16 with float32 sums."""
    tflops_fp32: float
    memory_tb_per_s: float
    memory_gib: float
    """The memory that torch finds on it; a little less than the data sheet's, whose gigabytes are smaller."""

    def peak(self, dtype: str) -> float:
        """TFLOPS in a number format."""
        return self.tflops_fp32 if dtype in ("float32", "fp32") else self.tflops


GPUS = {
    "B200": Gpu(2250.0, 75.0, 8.0, 178.4),
    "H200": Gpu(989.4, 67.0, 4.8, 139.8),
    "H100": Gpu(989.4, 67.0, 3.35, 79.6),
    "A100": Gpu(312.0, 19.5, 2.04, 79.3),
    "L40S": Gpu(362.0, 91.6, 0.864, 44.5),
    "RTX 4090": Gpu(165.2, 82.6, 1.008, 23.6),
}
"""The cards known, by a part of the device's name. The H100 and the A100 are those of 80 GB on SXM boards."""

_SMALLER = re.compile(r"\b(MIG|PCIe|NVL|Laptop|40GB)\b")


def known_gpu(name: str) -> Gpu | None:
    """The GPU that a driver calls ``name``; None for one that is not known, and for smaller ones of a known name."""
    if _SMALLER.search(name):
        return None
    return next((gpu for part, gpu in GPUS.items() if re.search(rf"\b{part}\b", name)), None)


def forward_flops(config: Mapping[str, Any], latent_shape: tuple[int, int, int, int], text_tokens: int) -> int:
    """FLOPs of one sample's forward pass through ``CogVideoXTransformer3DModel``.

    With S tokens (text, and latents after patching) of width D, a block computes

        8 S D^2            queries, keys, values and the output
        4 S^2 D            scores, and the sum that they weight
        16 S D^2           the feed-forward layers, which are 4 D wide
        24 E D             shift, scale and gate of its two norms, from the time embedding of width E

    The embedding that some of CogVideoX 1.5 have beside that of time is computed once for a batch, and counted here.

    Args:
        config: the transformer's configuration.
        latent_shape: T C h w.
        text_tokens: length of the text condition.
    """
    channels = latent_shape[1]
    heads, head_dim, layers = (int(config[key]) for key in ("num_attention_heads", "attention_head_dim", "num_layers"))
    d, time = heads * head_dim, int(config["time_embed_dim"])
    patch, patch_t = int(config["patch_size"]), int(config.get("patch_size_t") or 1)
    video_tokens = count_video_tokens(config, latent_shape)
    tokens = video_tokens + text_tokens
    volume = patch * patch * patch_t
    blocks = layers * (24 * tokens * d**2 + 4 * tokens**2 * d + 24 * time * d)
    patches = 2 * video_tokens * volume * channels * d
    text = 2 * text_tokens * int(config["text_embed_dim"]) * d
    times = 2 * d * time + 2 * time**2 + 4 * int(config.get("ofs_embed_dim") or 0) ** 2
    out = 4 * time * d + 2 * video_tokens * d * volume * int(config["out_channels"])
    return blocks + patches + text + times + out


def training_flops(
    config: Mapping[str, Any], latent_shape: tuple[int, int, int, int], text_tokens: int, *, frozen: bool = False
) -> int:
    """FLOPs of a sample's forward and backward pass, which is twice the forward one, half of it for the weights.

    Where the transformer is ``frozen`` its weights need none, but attention, which has none, does; adapters on it, a
    hundredth of the layers that they adapt, are left out. Activations that gradient checkpointing computes again do not
    count: they are a cost, not a result.
    """
    forward = forward_flops(config, latent_shape, text_tokens)
    if not frozen:
        return 3 * forward
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    tokens = count_video_tokens(config, latent_shape) + text_tokens
    return 2 * forward + int(config["num_layers"]) * 4 * tokens**2 * width


def count_video_tokens(config: Mapping[str, Any], latent_shape: tuple[int, int, int, int]) -> int:
    """Tokens of latents T C h w after patching, with T padded to whole temporal patches."""
    frames, _, height, width = latent_shape
    patch, patch_t = int(config["patch_size"]), int(config.get("patch_size_t") or 1)
    return -(-frames // patch_t) * (height // patch) * (width // patch)
