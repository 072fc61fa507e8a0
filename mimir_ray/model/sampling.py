"""The only loop over timesteps: a ``DenoiseState`` that is stepped, saved, loaded and continued bit-identically.

Each step is that of diffusers' ``CogVideoXPipeline``, operation for operation, so that results equal it bit for bit on
the same embeddings and seed. Shapes: ``B T C h w`` latents, ``B N D`` text conditions.

A step goes from timestep t to s. With abar_t of the schedule (``Schedule`` in ``diffusion``: x_t = sqrt(abar_t) x_0 +
sqrt(1 - abar_t) eps), c the condition, c_0 the null condition and w the ``guidance_scale``:

    v   = v(x_t, c_0, t) + w (v(x_t, c, t) - v(x_t, c_0, t))       guidance; of w <= 1 it is v(x_t, c, t)
    x0  = sqrt(abar_t) x_t - sqrt(1 - abar_t) v                    what v says of the clean video,
    eps = sqrt(abar_t) v + sqrt(1 - abar_t) x_t                    and of the noise
    x_s = an update by x0, and eps or fresh noise                  ``_ddim`` or ``_dpm``

Guidance is equation 6 of Ho and Salimans (arXiv 2207.12598), whose w is ours less one; of v and of eps it is the same,
as one is linear in the other. x0 and eps of v are in appendix D of Salimans and Ho (arXiv 2202.00512). s is t less the
whole part of (training timesteps / steps), which is the next t or, where the division leaves a rest, close to it; below
0, abar_s is 1.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Self

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from mimir_ray.model.rotary import rotary_embedding
from mimir_ray.model.velocity import predict_velocity

_KEPT = 8
"""Sizes, and numbers of steps, that a sampler remembers. Whoever asks for videos chooses them, and there is no end to
them; a table of positions for 49 frames of 480x720 has 9 MB."""


@dataclass(frozen=True, kw_only=True)
class DenoiseState:
    """Everything a denoising run carries from one step to the next; stepping it makes a new one."""

    latents: Tensor
    """B T C h w."""
    step: int
    """Steps taken so far."""
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    """Class of the scheduler that the run was started with."""
    generator_states: tuple[Tensor, ...]
    """One random state per row, so that a row does not depend on its batch; or one that all rows draw from in turn."""
    generator_device: str = "cpu"
    """Where the noise is drawn."""
    carry: Tensor | None = None
    """What the scheduler hands from step to step: the last predicted x0 (DPM), or nothing (DDIM)."""

    @property
    def finished(self) -> bool:
        return self.step >= self.num_inference_steps

    def generators(self) -> list[torch.Generator]:
        """Generators in the states that the run has reached."""
        generators = [torch.Generator(self.generator_device) for _ in self.generator_states]
        for generator, saved in zip(generators, self.generator_states, strict=True):
            generator.set_state(saved)
        return generators

    def to(self, device: torch.device | str) -> Self:
        """Move to ``device``; the random states stay as they are."""
        carry = None if self.carry is None else self.carry.to(device)
        return replace(self, latents=self.latents.to(device), carry=carry)

    def to_bytes(self) -> bytes:
        """A safetensors document that holds the whole state."""
        tensors = {f"generator_{i}": state for i, state in enumerate(self.generator_states)}
        tensors["latents"] = self.latents.contiguous()
        if self.carry is not None:
            tensors["carry"] = self.carry.contiguous()
        numbers = {
            "step": self.step,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "scheduler": self.scheduler,
            "generator_device": self.generator_device,
        }
        document: bytes = save_tensors(tensors, metadata={"state": json.dumps(numbers)})
        return document

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The state that ``to_bytes`` wrote, on the CPU."""
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        tensors = load_tensors(data)
        states = sum(name.startswith("generator_") for name in tensors)
        return cls(
            latents=tensors["latents"],
            carry=tensors.get("carry"),
            generator_states=tuple(tensors[f"generator_{i}"] for i in range(states)),
            **json.loads(header["__metadata__"]["state"]),
        )


@dataclass(frozen=True)
class _Plan:
    """A scheduler set to one number of steps, its timesteps as host integers and on the device."""

    scheduler: Any
    timesteps: tuple[int, ...]
    device_timesteps: Tensor


class Sampler:
    """Steps ``DenoiseState`` with a CogVideoX transformer and the DDIM or DPM scheduler of CogVideoX.

    Holds no state of a run: any number of runs, of any number of steps, may take turns. The scheduler passed in is only
    read.
    """

    def __init__(self, transformer: Any, scheduler: CogVideoXDDIMScheduler | CogVideoXDPMScheduler) -> None:
        if not isinstance(scheduler, CogVideoXDDIMScheduler | CogVideoXDPMScheduler):
            raise TypeError(
                f"{type(scheduler).__name__} is not supported; use CogVideoXDDIMScheduler or CogVideoXDPMScheduler"
            )
        self.transformer = transformer
        self.scheduler = scheduler
        # Neither holds the transformer, which would outlive the sampler in a circle of references.
        self._plan = lru_cache(_KEPT)(partial(_plan, scheduler))
        self._rotary = lru_cache(_KEPT)(partial(rotary_embedding, transformer.config))

    def start(
        self,
        latent_shape: Sequence[int],
        seeds: Sequence[int],
        *,
        num_inference_steps: int,
        guidance_scale: float,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> DenoiseState:
        """Noise of shape ``len(seeds)`` x ``latent_shape`` (T C h w), each row from its own seed whatever the batch.

        Noise is drawn on the CPU in ``dtype`` (the condition's), so that a seed means the same on every device.
        """
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        noise = randn_tensor(
            (len(seeds), *latent_shape), generator=generators, device=torch.device(device), dtype=dtype
        )
        return self.start_from(
            noise, generators, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
        )

    def start_from(
        self,
        noise: Tensor,
        generators: Sequence[torch.Generator],
        *,
        num_inference_steps: int,
        guidance_scale: float,
    ) -> DenoiseState:
        """The state before the first step, of B T C h w noise.

        Args:
            generators: one for each row, or one for all, as they are now; they are left so.
        """
        plan = self._plan(num_inference_steps, noise.device)
        return DenoiseState(
            latents=noise * plan.scheduler.init_noise_sigma,
            step=0,
            num_inference_steps=len(plan.timesteps),
            guidance_scale=guidance_scale,
            scheduler=type(self.scheduler).__name__,
            generator_states=tuple(generator.get_state() for generator in generators),
            generator_device=str(generators[0].device),
        )

    def timestep(self, state: DenoiseState) -> Tensor:
        """The timestep that the next step of ``state`` goes from, a number on the latents' device."""
        return self._plan(state.num_inference_steps, state.latents.device).device_timesteps[state.step]

    @torch.no_grad()
    def step(self, state: DenoiseState, condition: Tensor, null: Tensor | None = None) -> DenoiseState:
        """One denoise step.

        Args:
            condition: B N D.
            null: B N D, the null condition; not needed where ``guidance_scale`` is at most 1.
        """
        if state.finished:
            raise ValueError(f"all {state.num_inference_steps} steps of this run are done")
        if state.scheduler != type(self.scheduler).__name__:
            raise ValueError(
                f"the run was started with {state.scheduler}; this sampler has {type(self.scheduler).__name__}"
            )
        latents = state.latents
        plan = self._plan(state.num_inference_steps, latents.device)
        guided = state.guidance_scale > 1
        if guided and null is None:
            raise ValueError(f"guidance_scale={state.guidance_scale} needs the null condition")
        text = torch.cat([null, condition]) if guided and null is not None else condition
        model_input = torch.cat([latents, latents]) if guided else latents
        _, frames, _, height, width = latents.shape
        timesteps = plan.device_timesteps[state.step].expand(model_input.shape[0])
        rotary = self._rotary(frames, height, width, latents.device)
        with self.transformer.cache_context("cond_uncond"):
            velocity = predict_velocity(self.transformer, model_input, text, timesteps, rotary)
        if guided:
            unconditional, conditional = velocity.chunk(2)
            velocity = unconditional + state.guidance_scale * (conditional - unconditional)
        advance = _ddim if isinstance(plan.scheduler, CogVideoXDDIMScheduler) else _dpm
        after = advance(plan, state, velocity)
        return replace(after, latents=after.latents.to(condition.dtype), step=state.step + 1)

    def steps(self, state: DenoiseState, condition: Tensor, null: Tensor | None = None) -> Iterator[DenoiseState]:
        """Yield the state after each remaining step. The caller reports progress in between, and cancels by leaving."""
        while not state.finished:
            state = self.step(state, condition, null)
            yield state


def _plan(scheduler: Any, num_inference_steps: int, device: torch.device) -> _Plan:
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(num_inference_steps)
    timesteps = own.timesteps[:num_inference_steps]  # by a rounding, 61 steps and some others end in one of -1 more
    return _Plan(own, tuple(timesteps.tolist()), timesteps.to(device))


def _ddim(plan: _Plan, state: DenoiseState, velocity: Tensor) -> DenoiseState:
    """Latents x_s of x_t by DDIM without noise (Song et al., arXiv 2010.02502, equation 12 with sigma_t = 0):

        x_s = sqrt(abar_s) x0 + sqrt(1 - abar_s) eps

    diffusers writes eps as (x_t - sqrt(abar_t) x0) / sqrt(1 - abar_t): with a = sqrt((1 - abar_s) / (1 - abar_t)),
    x_s = a x_t + (sqrt(abar_s) - a sqrt(abar_t)) x0.
    """
    latents = plan.scheduler.step(velocity, plan.timesteps[state.step], state.latents, return_dict=False)[0]
    return replace(state, latents=latents)


def _dpm(plan: _Plan, state: DenoiseState, velocity: Tensor) -> DenoiseState:
    """Latents x_s of x_t by SDE-DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, on solvers for diffusion SDEs).

    With lambda_t = log(sqrt(abar_t) / sqrt(1 - abar_t)), half the logarithm of the signal-to-noise ratio,
    h = lambda_s - lambda_t, u the timestep before t, r = (lambda_t - lambda_u) / h, and z fresh noise:

        D   = (1 + 1 / 2r) x0_t - (1 / 2r) x0_u                    x0_u is the ``carry``
        x_s = sqrt((1 - abar_s) / (1 - abar_t)) e^-h x_t + sqrt(abar_s) (1 - e^-2h) D
              + sqrt(1 - abar_s) sqrt(1 - e^-2h) z

    The first step, which has no u, and one to s < 0 have D = x0_t. Each row's generator makes z; where D is of second
    order diffusers draws twice and z is the second draw.
    """
    generators = state.generators()
    latents, carry = plan.scheduler.step(
        velocity,
        state.carry,
        plan.timesteps[state.step],
        plan.timesteps[state.step - 1] if state.step else None,
        state.latents,
        generator=generators,
        return_dict=False,
    )
    saved_states = tuple(generator.get_state() for generator in generators)
    return replace(state, latents=latents, carry=carry, generator_states=saved_states)
