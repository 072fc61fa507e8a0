"""What the video transformer predicts, asked in one way by training and sampling.

Shapes: ``B T C h w`` latents, ``B N D`` text conditions, ``B`` timesteps.
"""

from typing import Any

from torch import Tensor

_OFS = 2.0
"""What diffusers gives a CogVideoX 1.5 transformer that embeds an ``ofs`` beside the timestep, whatever the video."""


def predict_velocity(
    transformer: Any, latents: Tensor, text: Tensor, timesteps: Tensor, rotary: tuple[Tensor, Tensor] | None
) -> Tensor:
    """The predicted velocity, B T C h w in float32.

    Args:
        transformer: a ``CogVideoXTransformer3DModel``, possibly wrapped.
        latents, text: in the transformer's dtype.
        rotary: what ``rotary_embedding`` makes for these latents.
    """
    ofs = None if transformer.config.ofs_embed_dim is None else latents.new_full((1,), _OFS)
    predicted: Tensor = transformer(
        hidden_states=latents,
        encoder_hidden_states=text,
        timestep=timesteps,
        ofs=ofs,
        image_rotary_emb=rotary,
        return_dict=False,
    )[0]
    return predicted.float()
