"""The sampler equals diffusers' pipeline bit for bit, and a run can stop and go on."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline, DDIMScheduler

from mimir_ray.model.rotary import rotary_embedding
from mimir_ray.model.sampling import DenoiseState, Sampler, _ddim, _dpm
from tests.tiny import LATENT_CHANNELS, TEXT_DIM, TEXT_LENGTH, tiny_scheduler, tiny_transformer

SHAPE = (3, LATENT_CHANNELS, 8, 8)


def text(rows: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    condition = torch.randn(rows, TEXT_LENGTH, TEXT_DIM, generator=generator).to(dtype)
    return condition, torch.zeros_like(condition)


def sampler(*, rotary: bool = False, dpm: bool = False) -> Sampler:
    return Sampler(tiny_transformer(rotary=rotary), tiny_scheduler(dpm=dpm))


@pytest.mark.parametrize("dpm", [False, True], ids=["ddim", "dpm"])
@pytest.mark.parametrize("style", ["2b", "5b"])
@pytest.mark.parametrize("guidance", [1.0, 6.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_latents_equal_diffusers_bit_for_bit(
    style: str, dpm: bool, guidance: float, dtype: torch.dtype, base_2b: Path, base_5b: Path
) -> None:
    theirs = CogVideoXPipeline.from_pretrained(base_2b if style == "2b" else base_5b, dtype=dtype)
    theirs.scheduler = tiny_scheduler(dpm=dpm)
    theirs.set_progress_bar_config(disable=True)
    condition, null = text(2, dtype)
    ours = Sampler(theirs.transformer, theirs.scheduler)
    start = ours.start(SHAPE, [3, 4], num_inference_steps=7, guidance_scale=guidance, dtype=dtype)
    *_, done = ours.steps(start, condition, null)
    expected = theirs(
        prompt_embeds=condition,
        negative_prompt_embeds=null,
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
        num_inference_steps=7,
        guidance_scale=guidance,
        output_type="latent",
    ).frames
    assert done.latents.dtype == dtype
    assert torch.equal(done.latents, expected)


@pytest.mark.parametrize("dpm", [False, True], ids=["ddim", "dpm"])
@pytest.mark.parametrize("rotary", [False, True], ids=["2b", "5b"])
def test_a_run_saved_after_any_step_continues_bit_identically(dpm: bool, rotary: bool) -> None:
    condition, null = text(2)
    first = sampler(dpm=dpm, rotary=rotary)
    start = first.start(SHAPE, [1, 2], num_inference_steps=5, guidance_scale=3.0, dtype=torch.float32)
    states = [start, *first.steps(start, condition, null)]
    assert [state.step for state in states] == list(range(6))
    for state in states[:-1]:
        loaded = DenoiseState.from_bytes(state.to_bytes())
        *_, done = sampler(dpm=dpm, rotary=rotary).steps(loaded, condition, null)
        assert torch.equal(done.latents, states[-1].latents)
        assert done.to_bytes() == states[-1].to_bytes()


def test_rows_that_draw_from_one_generator_are_saved_with_it() -> None:
    condition, null = text(2)
    ours = sampler(dpm=True)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, *SHAPE, generator=generator)
    start = ours.start_from(noise, [generator], num_inference_steps=4, guidance_scale=3.0)
    *_, done = ours.steps(start, condition, null)
    *_, again = ours.steps(DenoiseState.from_bytes(ours.step(start, condition, null).to_bytes()), condition, null)
    assert again.to_bytes() == done.to_bytes()
    assert len(done.generator_states) == 1
    assert torch.equal(generator.get_state(), start.generator_states[0])  # the caller's is left as it was


@pytest.mark.parametrize("steps", [7, 50], ids=["with a rest", "without"])
def test_a_ddim_step_is_its_equation(steps: int) -> None:
    ours = sampler()
    plan = ours._plan(steps, torch.device("cpu"))
    state = start(ours, steps)
    for index in range(steps):
        t, v = plan.timesteps[index], noise(100 + index)
        abar_t, abar_s = abar(t), abar(t - 1000 // steps)
        x0 = abar_t.sqrt() * state.latents - (1 - abar_t).sqrt() * v
        eps = abar_t.sqrt() * v + (1 - abar_t).sqrt() * state.latents
        state = replace(_ddim(plan, state, v), step=index + 1)
        torch.testing.assert_close(state.latents, abar_s.sqrt() * x0 + (1 - abar_s).sqrt() * eps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [7, 50], ids=["with a rest", "without"])
def test_a_dpm_step_is_its_equation(steps: int) -> None:
    ours = sampler(dpm=True)
    plan = ours._plan(steps, torch.device("cpu"))
    state, before = start(ours, steps), noise(0)
    generator = torch.Generator().manual_seed(5)
    noise_of(generator)  # what the run started from

    def lambda_of(share: torch.Tensor) -> torch.Tensor:
        return (share.sqrt() / (1 - share).sqrt()).log()

    for index in range(steps):
        t, s, v = plan.timesteps[index], plan.timesteps[index] - 1000 // steps, noise(100 + index)
        abar_t, abar_s = abar(t), abar(s)
        x0 = abar_t.sqrt() * state.latents - (1 - abar_t).sqrt() * v
        h = lambda_of(abar_s) - lambda_of(abar_t)
        d, z = x0, noise_of(generator)
        if index and s >= 0:
            r = (lambda_of(abar_t) - lambda_of(abar(plan.timesteps[index - 1]))) / h
            d, z = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before, noise_of(generator)
        expected = ((1 - abar_s) / (1 - abar_t)).sqrt() * (-h).exp() * state.latents
        expected += abar_s.sqrt() * (1 - (-2 * h).exp()) * d + (1 - abar_s).sqrt() * (1 - (-2 * h).exp()).sqrt() * z
        state, before = replace(_dpm(plan, state, v), step=index + 1), x0
        torch.testing.assert_close(state.latents, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.carry, x0, rtol=0, atol=1e-12)


def start(ours: Sampler, steps: int) -> DenoiseState:
    return ours.start(SHAPE, [5], num_inference_steps=steps, guidance_scale=1.0, dtype=torch.float64)


def abar(timestep: int) -> torch.Tensor:
    """By the schedule of CogVideoX, of its betas written out: scaled-linear, SNR shifted by 3, zero at the end."""
    alphas = 1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    product = alphas.cumprod(0)
    root = (product / (3 - 2 * product)).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return root[timestep] ** 2 if timestep >= 0 else torch.ones((), dtype=torch.float64)


def noise(seed: int) -> torch.Tensor:
    return noise_of(torch.Generator().manual_seed(seed))


def noise_of(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(1, *SHAPE, generator=generator, dtype=torch.float64)


def test_only_so_many_sizes_and_numbers_of_steps_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []

    def noted(*size: Any) -> Any:
        tables = rotary_embedding(*size)
        made.append(weakref.ref(tables[0]))
        return tables

    monkeypatch.setattr("mimir_ray.model.sampling.rotary_embedding", noted)
    prepare = CogVideoXDDIMScheduler.set_timesteps

    def prepared(scheduler: Any, *settings: Any) -> None:
        made.append(weakref.ref(scheduler))
        prepare(scheduler, *settings)

    monkeypatch.setattr(CogVideoXDDIMScheduler, "set_timesteps", prepared)
    ours = sampler(rotary=True)
    condition, null = text(1)

    def run(number: int) -> torch.Tensor:
        shape, steps = (3, LATENT_CHANNELS, 2, 2 * number), 1 + number
        start = ours.start(shape, [5], num_inference_steps=steps, guidance_scale=3.0, dtype=torch.float32)
        return ours.step(start, condition, null).latents

    first = [run(number) for number in range(1, 31)]
    gc.collect()
    assert len(made) == 60
    assert sum(ref() is not None for ref in made) <= 2 * 8
    assert all(torch.equal(run(number), latents) for number, latents in enumerate(first[:3], 1))  # made anew
    run(3)
    assert len(made) == 66  # and remembered


@pytest.mark.parametrize("steps", [60, 61, 121])
def test_a_run_has_as_many_steps_as_were_asked_for_and_ends_at_the_first_timestep(steps: int) -> None:
    scheduler = tiny_scheduler()
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == steps + (steps != 60)  # the last of which is -1
    ours = sampler()
    condition, null = text(1)
    start = ours.start(
        (1, LATENT_CHANNELS, 2, 2), [5], num_inference_steps=steps, guidance_scale=1.0, dtype=torch.float32
    )
    seen: list[int] = []
    ours.transformer.register_forward_pre_hook(
        lambda _module, _args, given: seen.append(int(given["timestep"][0])), with_kwargs=True
    )
    *_, done = ours.steps(start, condition, null)
    assert done.num_inference_steps == len(seen) == steps
    assert seen == scheduler.timesteps[:steps].tolist()
    assert 0 <= seen[-1] < 1000 / steps


def test_runs_of_different_lengths_take_turns_on_one_sampler() -> None:
    ours = sampler(dpm=True)
    condition, null = text(1)

    def start(steps: int) -> DenoiseState:
        return ours.start(SHAPE, [steps], num_inference_steps=steps, guidance_scale=3.0, dtype=torch.float32)

    *_, alone_3 = ours.steps(start(3), condition, null)
    *_, alone_5 = ours.steps(start(5), condition, null)
    turns = [start(3), start(5)]
    while not all(state.finished for state in turns):
        turns = [state if state.finished else ours.step(state, condition, null) for state in turns]
    assert torch.equal(turns[0].latents, alone_3.latents)
    assert torch.equal(turns[1].latents, alone_5.latents)


def test_a_row_does_not_depend_on_its_batch_beyond_rounding() -> None:
    ours = sampler(dpm=True)
    condition, null = text(3)
    settings = {"num_inference_steps": 4, "guidance_scale": 3.0, "dtype": torch.float32}
    *_, together = ours.steps(ours.start(SHAPE, [5, 6, 7], **settings), condition, null)
    *_, alone = ours.steps(ours.start(SHAPE, [6], **settings), condition[1:2], null[1:2])
    torch.testing.assert_close(together.latents[1:2], alone.latents, rtol=1e-4, atol=1e-4)


def test_stepping_leaves_the_earlier_state_as_it_was() -> None:
    ours = sampler(dpm=True)
    condition, null = text(1)
    start = ours.start(SHAPE, [0], num_inference_steps=3, guidance_scale=3.0, dtype=torch.float32)
    before = start.to_bytes()
    ours.step(start, condition, null)
    assert start.to_bytes() == before


def test_misuse_is_refused() -> None:
    ours = sampler()
    condition, null = text(1)
    start = ours.start(SHAPE, [0], num_inference_steps=1, guidance_scale=3.0, dtype=torch.float32)
    with pytest.raises(ValueError, match="needs the null condition"):
        ours.step(start, condition)
    done = ours.step(start, condition, null)
    with pytest.raises(ValueError, match="all 1 steps"):
        ours.step(done, condition, null)
    with pytest.raises(ValueError, match="started with CogVideoXDDIMScheduler; this sampler has CogVideoXDPMScheduler"):
        sampler(dpm=True).step(start, condition, null)
    with pytest.raises(TypeError, match="use CogVideoXDDIMScheduler or CogVideoXDPMScheduler"):
        Sampler(tiny_transformer(), DDIMScheduler())  # type: ignore[arg-type]
