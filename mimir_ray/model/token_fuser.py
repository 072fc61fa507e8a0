"""The token fuser (section 2.3, equation 3): T5 tokens and LLM tokens become the text condition of the DiT.

Shapes: ``B`` batch, ``N`` text tokens, ``L`` LLM tokens, ``D`` width of the text condition, ``E`` width of the LLM.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mimir_ray.config import UserError
from mimir_ray.model.config import SEMANTIC_TOKENS, FuserConfig
from mimir_ray.model.text_branches import T5Branch
from mimir_ray.model.tokens import TextTokens


class ZeroConv(nn.Linear):
    """A zero-initialised 1x1 convolution over tokens, written as the equal linear map on the last axis."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ScaledRMSNorm(nn.Module):
    """RMSNorm, then a learnable per-channel scale (initially ``scale_init``) and bias (initially 0).

    The statistics are taken in float32 whatever the dtype; a zero row stays at the bias.
    """

    def __init__(self, width: int, scale_init: float, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.full((width,), scale_init))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return (normed * self.scale.float() + self.bias.float()).to(x.dtype)


class TokenFuser(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Fuse T5 tokens and LLM tokens into the DiT's ``encoder_hidden_states``.

        e_theta = t5 + Z_theta(t5)
        e_beta  = mask * Z_beta(mask * (scale * norm(llm) + bias))
        e       = e_theta + alpha * e_beta
        e_s     = proj(norm(instruction)) + learnable                four semantic tokens

    ``stabilizer_join="concat"`` returns e and e_s along the sequence (N + 4 tokens, the paper); ``"residual"`` adds
    Z_s(e_s) to the last four of the N tokens. Without ``zero_conv`` the LLM tokens reach the sum through a fixed
    norm-preserving projection (the identity where the widths agree), so that no learnt adapter takes its place.

    The null condition (no text) puts ``null_token``, stored in the checkpoint, in place of e, and zeros in place of
    e_i; the learnable tokens belong to the model, not to the text, and stay. ``keep=0`` gives exactly that condition
    row by row. ``null_token`` is zeros of width D for every token, or T5's N D tokens of the empty prompt, which a
    fresh fuser must be given (``keep_empty_prompt``).

    Args:
        text_dim: width D of the T5 tokens, the DiT's ``text_embed_dim``.
        llm_dim: width E of the LLM's hidden states; ignored without ``decoder``.
        text_length: number N of T5 tokens; LLM tokens are padded or truncated to it.
        null_condition: which of the two, recorded in the checkpoint.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        text_dim: int,
        llm_dim: int,
        text_length: int,
        decoder: bool = True,
        norm: bool = True,
        zero_conv: bool = True,
        stabilizer: bool = True,
        stabilizer_join: Literal["concat", "residual"] = "concat",
        scale_init: float = 0.01,
        stabilizer_scale_init: float = 1.0,
        alpha: float = 1.0,
        learn_alpha: bool = False,
        projection_seed: int = 0,
        null_condition: Literal["zeros", "empty_prompt"] = "zeros",
    ) -> None:
        super().__init__()
        if null_condition not in ("zeros", "empty_prompt"):
            raise ValueError(
                f"null_condition={null_condition!r} is not known; this version supports 'zeros' and 'empty_prompt'"
            )
        if not decoder and (norm or stabilizer):
            raise ValueError("norm and stabilizer act on the LLM's tokens; without decoder set both to False")
        self.z_theta = ZeroConv(text_dim, text_dim) if zero_conv else None
        self.z_beta = ZeroConv(llm_dim, text_dim) if decoder and zero_conv else None
        self.llm_norm = ScaledRMSNorm(llm_dim, scale_init) if decoder and norm else None
        self.llm_alpha = nn.Parameter(torch.full((1,), float(alpha))) if decoder and learn_alpha else None
        if decoder and not zero_conv and llm_dim != text_dim:
            self.register_buffer("projection", _isometry(llm_dim, text_dim, projection_seed))
        else:
            self.projection = None
        if stabilizer:
            self.learnable_tokens = nn.Parameter(torch.randn(SEMANTIC_TOKENS, text_dim) * 0.02)
            self.instruction_norm = ScaledRMSNorm(llm_dim, stabilizer_scale_init)
            self.instruction_proj = nn.Linear(llm_dim, text_dim, bias=False)
            self.z_stabilizer = ZeroConv(text_dim, text_dim) if stabilizer_join == "residual" else None
        null = (text_dim,) if null_condition == "zeros" else (text_length, text_dim)
        self.register_buffer("null_token", torch.zeros(null))
        self._mean_squares: tuple[Tensor, Tensor] | None = None

    @classmethod
    def build(cls, config: FuserConfig, *, text_dim: int, llm_dim: int, text_length: int) -> Self:
        """A fresh fuser for a base of width ``text_dim`` and ``text_length`` tokens and an LLM of width ``llm_dim``."""
        switches = config.model_dump(exclude={"text_length"})
        fuser: Self = cls(text_dim=text_dim, llm_dim=llm_dim, text_length=config.text_length or text_length, **switches)
        return fuser

    def keep_empty_prompt(self, branch: T5Branch) -> None:
        """Take T5's tokens of the empty prompt as the null condition of a fresh fuser that has it so."""
        self.null_token.copy_(branch.encode([""])[0])

    @property
    def sequence_length(self) -> int:
        """Number of text tokens that the DiT gets: N, or N + 4 with a concatenating stabilizer."""
        concat = self.config.stabilizer and self.config.stabilizer_join == "concat"
        return int(self.config.text_length) + (SEMANTIC_TOKENS if concat else 0)

    def forward(self, tokens: TextTokens, keep: Tensor | None = None) -> Tensor:
        """Text condition of a batch, B x sequence_length x D, in the fuser's dtype.

        Args:
            tokens: T5 tokens (B N D), LLM tokens (B L E) with their mask, instruction tokens (B 4 E).
            keep: (B,) of 1 (keep the text) and 0 (drop it: the null condition, exactly). Every branch is computed
                either way, so that each parameter takes part in every step, as ZeRO-3 needs.
        """
        dtype = next(self.parameters(), self.null_token).dtype
        kept = None if keep is None else keep.to(tokens.t5.device, dtype).view(-1, 1, 1)
        t5 = tokens.t5.to(dtype)
        if t5.shape[1:] != (self.config.text_length, self.config.text_dim):
            raise ValueError(
                f"T5 tokens are {t5.shape[1]} x {t5.shape[2]}; this fuser was built for "
                f"{self.config.text_length} x {self.config.text_dim}: encode with max_length={self.config.text_length}"
            )
        e = t5 if self.z_theta is None else t5 + self.z_theta(t5)
        if self.config.decoder:
            e = self._add_llm(e, tokens, dtype)
        if kept is not None:
            e = e * kept + self.null_token.to(dtype) * (1 - kept)
        if not self.config.stabilizer:
            return e
        e_i: Tensor = self.instruction_proj(self.instruction_norm(tokens.instruction.to(dtype)))
        if kept is not None:
            e_i = e_i * kept
        e_s = e_i + self.learnable_tokens
        if self.z_stabilizer is None:
            return torch.cat([e, e_s], dim=1)
        return e + F.pad(self.z_stabilizer(e_s), (0, 0, e.shape[1] - SEMANTIC_TOKENS, 0))

    def _add_llm(self, e_theta: Tensor, tokens: TextTokens, dtype: torch.dtype) -> Tensor:
        """e_theta + alpha * e_beta, with every padded LLM position exactly zero before and after Z_beta."""
        length = int(self.config.text_length)
        mask = F.pad(tokens.llm_mask[:, :length], (0, length - min(length, tokens.llm_mask.shape[1])))[..., None]
        llm = F.pad(tokens.llm[:, :length].to(dtype), (0, 0, 0, length - min(length, tokens.llm.shape[1])))
        llm = llm.masked_fill(~mask, 0)
        if self.llm_norm is not None:
            llm = self.llm_norm(llm).masked_fill(~mask, 0)
        if self.z_beta is not None:
            e_beta = self.z_beta(llm).masked_fill(~mask, 0)
        else:
            e_beta = llm if self.projection is None else llm @ self.projection.to(dtype)
        alpha = self.config.alpha if self.llm_alpha is None else self.llm_alpha
        e_beta = alpha * e_beta
        self._mean_squares = _mean_square(e_theta, None), _mean_square(e_beta, mask)
        fused: Tensor = e_theta + e_beta
        return fused

    def telemetry(
        self,
        weights: Mapping[str, Tensor] | None = None,
        gradients: Mapping[str, Tensor] | None = None,
        add_up: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> dict[str, float]:
        """What the fuser has learnt, as plain numbers (reading them waits for the device).

        Norms of the zero-convs' weights, mean absolute scale, alpha, RMS of e_theta and alpha * e_beta in the last
        ``forward`` and the latter over the former (0 when fresh), and, with ``gradients``, the gradient norm of each
        branch (theta, beta, stabilizer).

        Args:
            weights, gradients: by the parameter's name; its own weights by default. Where parameters are sharded: the
                stretches that this process owns, so that every element is in one process alone.
            add_up: sums a vector over the processes then; all of them must call.
        """
        weights = dict(self.named_parameters()) if weights is None else weights
        squared: dict[str, list[Tensor]] = {}
        for branch in ("theta", "beta", "stabilizer"):
            if getattr(self, f"z_{branch}", None) is not None:
                squared[f"z_{branch}_norm"] = _present(weights, f"z_{branch}.weight")
        if gradients is not None:
            for name, _ in self.named_parameters():
                squared.setdefault(f"grad_{_branch(name)}", []).extend(_present(gradients, name))
        sums = {name: _sum(tensor.float().square() for tensor in tensors) for name, tensors in squared.items()}
        if self.llm_norm is not None:
            scales = _present(weights, "llm_norm.scale")
            sums["llm_scale"] = _sum(tensor.float().abs() for tensor in scales) / self.config.llm_dim
        if self.llm_alpha is not None:
            sums["alpha"] = _sum(tensor.float() for tensor in _present(weights, "llm_alpha"))
        # Together, for one collective and one wait.
        totals = add_up(torch.stack([value.to(self.device) for value in sums.values()])).tolist() if sums else []
        report = {
            name: math.sqrt(total) if name in squared else total for name, total in zip(sums, totals, strict=True)
        }
        if self.config.decoder:
            report.setdefault("alpha", float(self.config.alpha))
        if self._mean_squares is not None:
            theta, beta = (math.sqrt(float(x)) for x in self._mean_squares)
            report |= {"rms_theta": theta, "rms_beta": beta, "rms_beta_over_theta": beta / theta if theta else 0.0}
        return report


def room_for_text(transformer: Mapping[str, Any], sequence_length: int, base: str | Path) -> dict[str, int]:
    """What a transformer of this configuration must be loaded with to read ``sequence_length`` text tokens.

    2B-style positions are computed for a fixed length and stored nowhere; 5B-style ones do not count text at all.

    Raises:
        UserError: the positions are learnt, for another length.
    """
    length = int(transformer["max_text_seq_length"])
    if length == sequence_length:
        return {}
    if transformer.get("use_learned_positional_embeddings"):
        raise UserError(
            f"{base} has learnt positions for {length} text tokens, but the fuser makes {sequence_length}: set "
            "fuser.stabilizer_join=residual, which keeps the length"
        )
    return {} if transformer.get("use_rotary_positional_embeddings") else {"max_text_seq_length": sequence_length}


def _branch(parameter: str) -> Literal["theta", "beta", "stabilizer"]:
    root = parameter.split(".")[0]
    if root == "z_theta":
        return "theta"
    return "beta" if root in ("z_beta", "llm_norm", "llm_alpha") else "stabilizer"


def _present(tensors: Mapping[str, Tensor], name: str) -> list[Tensor]:
    return [tensors[name].detach()] if name in tensors else []


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    return sum((tensor.sum() for tensor in tensors), start=torch.zeros(()))


def _mean_square(x: Tensor, mask: Tensor | None) -> Tensor:
    squares = x.detach().float().square()
    if mask is None:
        return squares.mean()
    return squares.sum() / (mask.sum().clamp(min=1) * x.shape[-1])


def _isometry(source: int, target: int, seed: int) -> Tensor:
    """A fixed source x target matrix that preserves norms: exactly where source <= target, else on average."""
    generator = torch.Generator("cpu").manual_seed(seed)
    wide, narrow = max(source, target), min(source, target)
    gaussian = torch.randn(wide, narrow, generator=generator, device="cpu", dtype=torch.float64)
    basis, triangle = torch.linalg.qr(gaussian)
    basis = basis * triangle.diagonal().sign()  # makes the factorisation unique
    matrix: Tensor = basis.T if source <= target else basis * math.sqrt(source / target)
    return matrix.float().contiguous()
