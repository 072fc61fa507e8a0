"""What is trained: transformer and token fuser as one module whose forward is the loss.

One module, so that ZeRO sees every parameter; no T5, LLM or VAE, so that their memory is free for training.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mimir_ray.config import UserError, differences
from mimir_ray.model import diffusion
from mimir_ray.model.base import check_base, variant_of
from mimir_ray.model.config import FuserConfig, ModelConfig
from mimir_ray.model.flops import training_flops
from mimir_ray.model.latents import temporal_patch
from mimir_ray.model.text_branches import T5Branch
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.batches import Batch


class TrainingModule(nn.Module):
    """Transformer and token fuser of one checkpoint."""

    def __init__(self, transformer: Any, token_fuser: Any, schedule: diffusion.Schedule) -> None:
        super().__init__()
        self.transformer = transformer
        self.token_fuser = token_fuser
        self.schedule = schedule

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Weighted mean loss and the loss of each sample (B), both float32; noise is added and compared in float32."""
        condition = self.token_fuser(batch.tokens, batch.keep)
        loss = diffusion.loss(self.transformer, self.schedule, batch.latents, condition, batch.timesteps, batch.noise)
        return (loss.per_sample * batch.weight).mean(), loss.per_sample.detach()

    def flops(self, batch: Batch) -> int:
        """FLOPs of a training step for one sample like those of ``batch``, the token fuser's few left out."""
        frames, channels, height, width = batch.latents.shape[1:]
        shape = (frames, channels, height, width)
        frozen = not self.transformer.proj_out.weight.requires_grad
        return training_flops(self.transformer.config, shape, int(self.token_fuser.sequence_length), frozen=frozen)

    def parameter_groups(self, config: TrainingConfig) -> list[dict[str, Any]]:
        """AdamW's groups, each with its ``peak`` learning rate; parts of equal rate share one."""
        rates = {
            "transformer": config.learning_rate,
            "token_fuser": config.fuser_learning_rate or config.learning_rate,
        }
        groups: dict[float, list[nn.Parameter]] = {}
        for name, rate in rates.items():
            groups.setdefault(rate, []).extend(p for p in getattr(self, name).parameters() if p.requires_grad)
        return [{"params": params, "lr": rate, "peak": rate} for rate, params in groups.items() if params]


@dataclass(frozen=True)
class Start:
    """The trainable part of a starting checkpoint and what training must know of the rest."""

    module: TrainingModule
    scaling_factor: float
    """The VAE's scaling factor."""
    text_length: int
    temporal_patch: int
    """Latent frames that the transformer reads as one."""


def load_start(model: ModelConfig, config: TrainingConfig) -> Start:
    """Read transformer, token fuser, scheduler and the VAE's configuration in float32; no other weight stays.

    Where a fresh fuser has the empty prompt as its null condition, T5 is there for the time of encoding it.

    ``model.base`` is a CogVideoX checkpoint, whose fuser is built fresh from the seed, or a Mimir one, whose fuser goes
    on from where it was and whose adapters are merged. What ``config.train`` leaves out is frozen.

    Raises:
        UserError: no such checkpoint, one that cannot be run or trained, one whose token fuser differs from
            ``model.fuser``, or one whose positions cannot take the longer text.
    """
    from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

    from mimir_ray.model.adapters import load_own_adapters, merge_adapters
    from mimir_ray.model.token_fuser import TokenFuser, room_for_text

    base, where = model.base, {"revision": model.revision}
    found = check_base(base, model.revision)
    shape = found.transformer
    try:
        scheduler = CogVideoXDDIMScheduler.from_pretrained(base, subfolder="scheduler", **where)
        if found.is_mimir:
            fuser = TokenFuser.from_pretrained(base, subfolder="token_fuser", **where)
            _check_fuser(fuser, model)
        else:
            torch.manual_seed(config.seed)
            fuser = TokenFuser.build(
                model.fuser,
                text_dim=int(shape["text_embed_dim"]),
                llm_dim=_llm_width(model),
                text_length=int(shape["max_text_seq_length"]),
            )
            if model.fuser.null_condition == "empty_prompt":
                fuser.keep_empty_prompt(_t5(model, int(fuser.config.text_length)))
        overrides = room_for_text(shape, fuser.sequence_length, base)
        transformer = CogVideoXTransformer3DModel.from_pretrained(
            base,
            subfolder="transformer",
            dtype=torch.float32,
            variant=variant_of(base, "transformer"),
            **overrides,
            **where,
        )
        if found.is_mimir:
            load_own_adapters(transformer, base, model.revision)
            merge_adapters(transformer)
    except OSError as error:
        raise UserError(
            f"cannot read the starting checkpoint {base}: {error}; set model.base to a CogVideoX or Mimir checkpoint"
        ) from error
    select_trained(transformer, config)
    return Start(
        module=TrainingModule(transformer, fuser.float(), diffusion.Schedule.from_scheduler(scheduler)),
        scaling_factor=float(found.vae["scaling_factor"]),
        text_length=int(fuser.config.text_length),
        temporal_patch=temporal_patch(transformer.config),
    )


def select_trained(transformer: Any, config: TrainingConfig) -> None:
    """Freeze what is not trained, and add the adapters (equal for equal seeds, without effect at first) of ``lora``.

    Raises UserError where a target of ``lora`` is no layer of this transformer.
    """
    if config.train == "full":
        return
    transformer.requires_grad_(False)
    if config.train == "lora":
        from peft import LoraConfig

        torch.manual_seed(config.seed)
        lora = config.lora
        adapter = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets))  # type: ignore[arg-type]
        try:
            transformer.add_adapter(adapter)
        except ValueError as error:
            raise UserError(
                f"training.lora.targets={list(lora.targets)} name no layer of the transformer ({error}); "
                "the attention's are to_q, to_k, to_v and to_out.0"
            ) from None


def _t5(model: ModelConfig, text_length: int) -> T5Branch:
    dtype = getattr(torch, model.dtype)
    return T5Branch.of_base(model.base, text_length, dtype=dtype, revision=model.revision)


def _llm_width(model: ModelConfig) -> int:
    if not model.fuser.decoder:
        return 0
    if model.llm is None:
        raise UserError(
            "the token fuser reads an LLM's tokens but model.llm is null; name one, or set model.fuser.decoder=false "
            "(and norm, stabilizer)"
        )
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(model.llm, revision=model.llm_revision).get_text_config().hidden_size)


def _check_fuser(fuser: Any, model: ModelConfig) -> None:
    wanted = model.fuser.model_dump(mode="json", exclude_none=True)
    kept = {name: fuser.config[name] for name in FuserConfig.model_fields if name in wanted}
    if changed := differences(kept, wanted):
        raise UserError(
            f"{model.base} already has a token fuser, and it differs from model.fuser: {'; '.join(changed)}. "
            "Set model.fuser to what it has, or start from a base without a fuser"
        )
