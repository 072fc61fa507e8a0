"""The formula against torch's own counter, on the meta device: nothing is computed."""

from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mimir_ray.model.flops import forward_flops, training_flops

TINY = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "text_embed_dim": 24, "time_embed_dim": 20}
TWO_B = {"num_attention_heads": 30, "num_layers": 30}
FIVE_B = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
ONE_POINT_FIVE = FIVE_B | {"patch_size_t": 2, "ofs_embed_dim": None, "patch_bias": False, "num_layers": 2}


@pytest.mark.parametrize(
    ("settings", "latents", "text_tokens"),
    [
        (TINY, (3, 16, 8, 12), 226),
        (TINY | {"max_text_seq_length": 30}, (1, 16, 4, 4), 30),
        (TWO_B | {"num_layers": 3}, (13, 16, 60, 90), 226),
        (FIVE_B | {"num_layers": 2}, (13, 16, 60, 90), 230),
        (ONE_POINT_FIVE, (4, 16, 60, 90), 230),
        (ONE_POINT_FIVE | {"ofs_embed_dim": 512}, (4, 16, 60, 90), 230),
    ],
)
def test_the_formula_is_what_torch_counts(
    settings: dict[str, Any], latents: tuple[int, int, int, int], text_tokens: int
) -> None:
    frames, _, height, width = latents
    with torch.device("meta"):
        sizes = {"sample_height": height, "sample_width": width, "sample_frames": 4 * frames - 3}
        model = CogVideoXTransformer3DModel(**sizes, **settings)
        config, head_dim = model.config, model.config.attention_head_dim
        tokens = frames // (config.patch_size_t or 1) * (height // 2) * (width // 2)
        rotary = (torch.zeros(tokens, head_dim),) * 2 if config.use_rotary_positional_embeddings else None
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            model(
                hidden_states=torch.zeros(1, *latents),
                encoder_hidden_states=torch.zeros(1, text_tokens, config.text_embed_dim),
                timestep=torch.zeros(1),
                ofs=torch.zeros(1),
                image_rotary_emb=rotary,
            )
    assert forward_flops(config, latents, text_tokens) == counter.get_total_flops()
    assert training_flops(config, latents, text_tokens) == 3 * counter.get_total_flops()
    if config.patch_size_t:
        assert forward_flops(config, (frames - 1, *latents[1:]), text_tokens) == counter.get_total_flops()
