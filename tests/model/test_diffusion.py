"""The objective: its schedule equals the scheduler's, its loss the official one, its arithmetic float32."""

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler
from torch import Tensor

from mimir_ray.config import UserError
from mimir_ray.model.diffusion import Schedule, draw_timesteps, loss
from mimir_ray.model.rotary import rotary_embedding
from tests.tiny import LATENT_CHANNELS, TEXT_DIM, TEXT_LENGTH, tiny_scheduler, tiny_transformer


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dpm", [False, True])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_schedule_is_the_schedulers_and_shifts_before_it_rescales(dpm: bool, shift: float) -> None:
    scheduler = tiny_scheduler(dpm=dpm, snr_shift_scale=shift)
    schedule = Schedule.from_scheduler(scheduler)
    abar = scheduler.alphas_cumprod
    assert torch.equal(schedule.signal, abar.sqrt().float())
    assert torch.equal(schedule.sigma, (1 - abar).sqrt().float())
    assert schedule.signal.dtype == torch.float32

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    shifted = (1 - betas).cumprod(0)
    shifted = shifted / (shift + (1 - shift) * shifted)
    root = shifted.sqrt()
    rescaled = (root - root[-1]) * root[0] / (root[0] - root[-1])
    torch.testing.assert_close(schedule.signal, rescaled.float(), rtol=1e-6, atol=1e-7)
    assert schedule.signal[-1] == 0
    assert schedule.sigma[-1] == 1


def test_noising_is_exact_where_a_bfloat16_schedule_is_not() -> None:
    scheduler = tiny_scheduler(snr_shift_scale=1.0)
    schedule = Schedule.from_scheduler(scheduler)
    clean, noise = random(4, 3, 2, 2, 2).bfloat16(), random(4, 3, 2, 2, 2, seed=1).bfloat16()
    steps = torch.tensor([0, 1, 5, 999])
    noisy = schedule.add_noise(clean, noise, steps)
    assert noisy.dtype == torch.float32
    torch.testing.assert_close(noisy, scheduler.add_noise(clean.float(), noise.float(), steps), rtol=1e-5, atol=1e-5)
    assert torch.equal(scheduler.add_noise(clean, noise, steps)[0], clean[0])  # theirs adds no noise at all at t = 0
    assert not torch.equal(noisy[0], clean[0].float())
    torch.testing.assert_close(schedule.clean(noisy, schedule.velocity(clean, noise, steps), steps), clean.float())


@pytest.mark.parametrize("rotary", [False, True])
def test_v_mse_equals_the_official_weighted_x0_loss(rotary: bool) -> None:
    transformer = tiny_transformer(rotary=rotary)
    schedule = Schedule.from_scheduler(tiny_scheduler())
    clean, noise = random(3, 3, LATENT_CHANNELS, 8, 8), random(3, 3, LATENT_CHANNELS, 8, 8, seed=1)
    condition = random(3, TEXT_LENGTH, TEXT_DIM, seed=2)
    steps = torch.tensor([20, 400, 999])
    with torch.no_grad():
        result = loss(transformer, schedule, clean, condition, steps, noise)

        scheduler = tiny_scheduler()
        noisy = scheduler.add_noise(clean, noise, steps)
        predicted = transformer(
            hidden_states=noisy,
            encoder_hidden_states=condition,
            timestep=steps,
            image_rotary_emb=rotary_embedding(transformer.config, 3, 8, 8, "cpu"),
            return_dict=False,
        )[0]
        clean_predicted = scheduler.get_velocity(predicted, noisy, steps)
        weight = (1 / (1 - scheduler.alphas_cumprod[steps])).view(-1, 1, 1, 1, 1)
        official = (weight * (clean_predicted - clean) ** 2).reshape(3, -1).mean(1)
    torch.testing.assert_close(result.per_sample, official.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.mean, result.per_sample.mean())


def test_timesteps_are_uniform_over_the_whole_schedule() -> None:
    schedule = Schedule.from_scheduler(tiny_scheduler())
    steps = draw_timesteps(200_000, schedule, torch.Generator().manual_seed(0))
    assert steps.min() == 0
    assert steps.max() == 999
    assert abs(float(steps.float().mean()) - 499.5) < 2


def test_a_scheduler_that_does_not_predict_v_is_refused() -> None:
    with pytest.raises(UserError, match=r"'epsilon'.*'v_prediction' only"):
        Schedule.from_scheduler(CogVideoXDDIMScheduler())


def test_the_loss_of_a_bfloat16_transformer_is_taken_in_float32() -> None:
    transformer = tiny_transformer().bfloat16()
    schedule = Schedule.from_scheduler(tiny_scheduler())
    clean, noise = random(2, 3, LATENT_CHANNELS, 8, 8), random(2, 3, LATENT_CHANNELS, 8, 8, seed=1)
    condition, steps = random(2, TEXT_LENGTH, TEXT_DIM, seed=2), torch.tensor([20, 999])
    with torch.no_grad():
        result = loss(transformer, schedule, clean, condition, steps, noise)
        predicted = transformer(
            hidden_states=schedule.add_noise(clean, noise, steps).bfloat16(),
            encoder_hidden_states=condition.bfloat16(),
            timestep=steps,
            return_dict=False,
        )[0]
    assert (predicted.dtype, result.per_sample.dtype) == (torch.bfloat16, torch.float32)
    expected = (predicted.double() - schedule.velocity(clean, noise, steps).double()).square().flatten(1).mean(1)
    torch.testing.assert_close(result.per_sample.double(), expected, rtol=1e-5, atol=0)
