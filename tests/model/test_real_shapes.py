"""The published 2B and 5B configurations, built without memory on the meta device."""

from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import CogVideoXTransformer3DModel

from mimir_ray.model.config import FuserConfig
from mimir_ray.model.token_fuser import TokenFuser

# transformer/config.json of zai-org/CogVideoX-2b and CogVideoX-5b
CONFIGS: dict[str, dict[str, Any]] = {
    "2b": {"num_attention_heads": 30, "num_layers": 30, "use_rotary_positional_embeddings": False},
    "5b": {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
}
PARAMETERS = {"2b": 1.69e9, "5b": 5.57e9}


@pytest.mark.parametrize("style", CONFIGS)
def test_the_transformer_with_room_for_the_stabilizer_has_the_parameters_of_diffusers(style: str) -> None:
    with init_empty_weights(include_buffers=True):
        published = CogVideoXTransformer3DModel(**CONFIGS[style])
        longer = CogVideoXTransformer3DModel(**CONFIGS[style], max_text_seq_length=226 + 4)
    shapes = {name: tuple(value.shape) for name, value in published.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in longer.state_dict().items()} == shapes
    assert "patch_embed.pos_embedding" not in shapes
    assert shapes["patch_embed.text_proj.weight"] == (1920 if style == "2b" else 3072, 4096)
    assert sum(p.numel() for p in published.parameters()) == pytest.approx(PARAMETERS[style], rel=5e-3)


def test_the_fuser_for_phi_3_5_and_t5_xxl() -> None:
    with torch.device("meta"):
        fuser = TokenFuser.build(FuserConfig(), text_dim=4096, llm_dim=3072, text_length=226)
    assert {name: tuple(p.shape) for name, p in fuser.named_parameters()} == {
        "z_theta.weight": (4096, 4096),
        "z_theta.bias": (4096,),
        "z_beta.weight": (4096, 3072),
        "z_beta.bias": (4096,),
        "llm_norm.scale": (3072,),
        "llm_norm.bias": (3072,),
        "learnable_tokens": (4, 4096),
        "instruction_norm.scale": (3072,),
        "instruction_norm.bias": (3072,),
        "instruction_proj.weight": (4096, 3072),
    }
    assert fuser.sequence_length == 230
