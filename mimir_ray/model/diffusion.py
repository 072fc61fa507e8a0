"""Training objective (section 2.1; v-prediction and zero terminal SNR, section 3.1), its schedule in float32.

With x_0 a clean video's latents, eps noise, c the condition, and abar_t from 1 (clean) down to 0 (noise alone, at the
last timestep: Lin et al., arXiv 2305.08891, algorithm 1):

    x_t  = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps                 ``add_noise``
    v    = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0                 ``velocity`` (Salimans and Ho, arXiv 2202.00512)
    loss = mean over t, eps of (v(x_t, c, t) - v)^2                ``loss``, v(...) the transformer

``sampling`` has the way back from v.

Shapes: ``B T C h w`` latents, ``B N D`` text condition, ``B`` timesteps.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from mimir_ray.config import UserError
from mimir_ray.model.rotary import rotary_embedding
from mimir_ray.model.velocity import predict_velocity


@dataclass(frozen=True)
class Schedule:
    """sqrt(abar_t) and sqrt(1 - abar_t) of every training timestep, float32.

    They come from the scheduler's own ``alphas_cumprod`` (scaled-linear betas, then the SNR shift, then the rescale to
    zero terminal SNR), so that training and sampling cannot disagree.
    """

    signal: Tensor
    sigma: Tensor

    @classmethod
    def from_scheduler(cls, scheduler: Any, device: torch.device | str = "cpu") -> Self:
        """The schedule of a CogVideoX scheduler.

        Raises:
            UserError: the scheduler does not predict v.
        """
        if scheduler.config.prediction_type != "v_prediction":
            raise UserError(
                f"the base's scheduler has prediction_type={scheduler.config.prediction_type!r}, and Mimir trains with "
                "'v_prediction' only, as CogVideoX was: start from a checkpoint that has it in "
                "scheduler/scheduler_config.json"
            )
        abar = scheduler.alphas_cumprod.double()
        return cls(abar.sqrt().float().to(device), (1 - abar).sqrt().float().to(device))

    def __len__(self) -> int:
        return self.signal.shape[0]

    def to(self, device: torch.device | str) -> Self:
        return type(self)(self.signal.to(device), self.sigma.to(device))

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(abar) x_0 + sqrt(1 - abar) noise, float32."""
        signal, sigma = self._at(timesteps, clean.ndim)
        return signal * clean.float() + sigma * noise.float()

    def velocity(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """v = sqrt(abar) noise - sqrt(1 - abar) x_0, float32."""
        signal, sigma = self._at(timesteps, clean.ndim)
        return signal * noise.float() - sigma * clean.float()

    def clean(self, noisy: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
        """x_0 = sqrt(abar) x_t - sqrt(1 - abar) v, float32."""
        signal, sigma = self._at(timesteps, noisy.ndim)
        return signal * noisy.float() - sigma * velocity.float()

    def _at(self, timesteps: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
        shape = (-1, *(1,) * (ndim - 1))
        return self.signal[timesteps].view(shape), self.sigma[timesteps].view(shape)


class Loss(NamedTuple):
    """v-MSE of a batch."""

    mean: Tensor
    per_sample: Tensor
    """B, float32."""


def draw_timesteps(batch: int, schedule: Schedule, generator: torch.Generator | None = None) -> Tensor:
    """Uniform timesteps, B int64, on the schedule's device (where ``generator`` must live)."""
    return torch.randint(0, len(schedule), (batch,), generator=generator, device=schedule.signal.device)


def loss(
    transformer: Any, schedule: Schedule, clean: Tensor, condition: Tensor, timesteps: Tensor, noise: Tensor
) -> Loss:
    """Mean squared error of the predicted velocity, equal to CogVideoX's x_0 loss weighted by 1 / (1 - abar).

    Args:
        transformer: a ``CogVideoXTransformer3DModel``, possibly wrapped; it runs in its own dtype.
        clean: scaled latents, B T C h w; T is whole temporal patches (``latents.padding``).
        condition: the fused text condition, B N D.
        noise: B T C h w.
    """
    dtype = transformer.dtype
    noisy = schedule.add_noise(clean, noise, timesteps)
    _, frames, _, height, width = clean.shape
    rotary = rotary_embedding(transformer.config, frames, height, width, clean.device)
    predicted = predict_velocity(transformer, noisy.to(dtype), condition.to(dtype), timesteps, rotary)
    error = predicted - schedule.velocity(clean, noise, timesteps)
    per_sample = error.square().flatten(1).mean(1)
    return Loss(per_sample.mean(), per_sample)
