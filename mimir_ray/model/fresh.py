"""The components of a Mimir that has learnt nothing yet: those of a CogVideoX, an LLM and a fresh token fuser."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from mimir_ray.config import UserError
from mimir_ray.model.base import check_base, variant_of
from mimir_ray.model.config import FuserConfig
from mimir_ray.model.text_branches import T5Branch
from mimir_ray.model.token_fuser import TokenFuser, room_for_text


def fresh_components(
    base: str | Path,
    llm: str | Path | None,
    fuser: FuserConfig | None,
    *,
    dtype: torch.dtype,
    revision: str | None,
    llm_revision: str | None,
    transformer: CogVideoXTransformer3DModel | None,
    vae: AutoencoderKLCogVideoX | None,
) -> dict[str, Any]:
    """By name, for ``MimirPipeline.from_base``, which says what the arguments are and what is raised."""
    if fuser is None:
        fuser = FuserConfig() if llm is not None else FuserConfig.baseline()
    if fuser.decoder and llm is None:
        raise UserError(
            "the fuser adds an LLM's tokens but no llm is named: name one, or use FuserConfig.baseline(), "
            "which sets decoder, norm, zero_conv and stabilizer to false"
        )
    config = check_base(base, revision).transformer
    where = {"revision": revision, "dtype": dtype}
    model = tokenizer = None
    if llm is not None and fuser.decoder:
        model = AutoModelForCausalLM.from_pretrained(llm, revision=llm_revision, dtype=dtype).eval()
        tokenizer = AutoTokenizer.from_pretrained(llm, revision=llm_revision)
    text_length = int(config["max_text_seq_length"])
    llm_dim = 0 if model is None else int(model.config.get_text_config().hidden_size)
    token_fuser = TokenFuser.build(
        fuser, text_dim=int(config["text_embed_dim"]), llm_dim=llm_dim, text_length=text_length
    )
    overrides = room_for_text(config, token_fuser.sequence_length, base)
    transformer = transformer or CogVideoXTransformer3DModel.from_pretrained(
        base, subfolder="transformer", variant=variant_of(base, "transformer"), **overrides, **where
    )
    vae = vae or AutoencoderKLCogVideoX.from_pretrained(base, subfolder="vae", variant=variant_of(base, "vae"), **where)
    pipeline = CogVideoXPipeline.from_pretrained(
        base, transformer=transformer, vae=vae, variant=variant_of(base, "text_encoder"), **where
    )
    token_fuser = torch.nn.Module.to(token_fuser, dtype).eval()
    if fuser.null_condition == "empty_prompt":
        token_fuser.keep_empty_prompt(
            T5Branch(pipeline.tokenizer, pipeline.text_encoder, int(token_fuser.config.text_length))
        )
    components: dict[str, Any] = pipeline.components
    return components | {"token_fuser": token_fuser, "llm_tokenizer": tokenizer, "llm": model}
