"""Each stage of the graph by itself: what it does for a video that nobody wants any more."""

import asyncio
from pathlib import Path

import pytest
import torch

from mimir_ray.generation.stages import Condition, DenoiseState
from mimir_ray.records import GenerationRequest
from mimir_ray.serving.deployments import Decoded, Denoised, Denoiser, Encoded, FrameDecoder, Unwanted
from tests.serving.local_graph import FakeStages

STEPS = 4
REQUEST = GenerationRequest(
    prompt="a", model="m", num_frames=9, height=16, width=16, num_inference_steps=STEPS, guidance_scale=1.0, fps=8.0
)
ENCODED = Encoded(Condition(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)).to_bytes(), 0.5)


class Jobs:
    """Wants a video for some of its reports."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self.told: list[int] = []

    async def __call__(self, job_id: str, steps_done: int) -> bool:
        self.told.append(steps_done)
        return len(self.told) <= self._wanted


def denoise(engine: FakeStages, jobs: Jobs) -> Denoised:
    return asyncio.run(Denoiser(engine, jobs).denoise("video_1", REQUEST, ENCODED))


def decode(engine: FakeStages, jobs: Jobs, out: Path) -> Decoded:
    state = DenoiseState(
        latents=torch.ones(1, 1),
        step=STEPS,
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        scheduler="fake",
        generator_states=(torch.zeros(1, dtype=torch.uint8),),
    )
    return asyncio.run(
        FrameDecoder(engine, str(out), jobs).decode("video_1", REQUEST, Denoised(state.to_bytes(), 0.5, 1.5))
    )


def test_a_video_that_is_wanted_is_made(tmp_path: Path) -> None:
    engine, jobs = FakeStages(), Jobs(99)
    denoised = denoise(engine, jobs)
    assert len(engine.steps) == STEPS
    assert (jobs.told, denoised.encode_s) == ([0, 0, 1, 2, 3, 4], 0.5)
    assert DenoiseState.from_bytes(denoised.state).finished
    decoded = decode(engine, jobs, tmp_path)
    assert jobs.told[-1] == STEPS
    assert (decoded.durations["encode"], decoded.durations["denoise"]) == (0.5, 1.5)
    assert [path.name for path in tmp_path.iterdir()] == ["video_1.mp4"]


def test_a_video_that_was_deleted_while_it_waited_is_not_begun() -> None:
    engine = FakeStages()
    with pytest.raises(Unwanted):
        denoise(engine, Jobs(0))
    assert engine.steps == []


def test_a_video_that_is_deleted_stops_after_the_step_in_progress() -> None:
    engine, jobs = FakeStages(), Jobs(3)  # for the start, twice, and for the first step
    with pytest.raises(Unwanted):
        denoise(engine, jobs)
    assert len(engine.steps) == 3
    assert jobs.told == [0, 0, 1, 2]


def test_a_video_that_was_deleted_before_it_is_decoded_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(Unwanted):
        decode(FakeStages(), Jobs(0), tmp_path)
    assert list(tmp_path.iterdir()) == []
