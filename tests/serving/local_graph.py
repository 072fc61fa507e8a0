"""The whole graph in one process and one event loop, without Ray and without a model."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import requests
import torch
import uvicorn
from numpy.typing import NDArray
from torch import Tensor

from mimir_ray.config import UserError
from mimir_ray.generation.config import GenerationConfig
from mimir_ray.generation.stages import Condition
from mimir_ray.model.sampling import DenoiseState
from mimir_ray.records import GenerationRequest
from mimir_ray.serving.api import create_api
from mimir_ray.serving.config import ServingConfig
from mimir_ray.serving.deployments import Denoiser, FrameDecoder, PromptEncoder
from mimir_ray.serving.video_jobs import VideoJobs

MODEL = "fake"


@dataclass
class FakeStages:
    """Stages without weights: each step waits for ``step_s``, or for ``gate`` where it is not set."""

    step_s: float = 0.0
    gate: threading.Event = field(default_factory=threading.Event)
    steps: list[int] = field(default_factory=list)
    """The seed of the request of every step made."""

    def encode_stage(self) -> "FakeStages":
        return self

    def denoise_stage(self) -> "FakeStages":
        return self

    def decode_stage(self) -> "FakeStages":
        return self

    def encode(self, request: GenerationRequest) -> Condition:
        if "too long" in request.prompt:
            raise UserError("the prompt has 99 text tokens; this model reads 24: shorten it")
        if "broken" in request.prompt:
            raise RuntimeError("no such luck")
        return Condition(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))

    def start(self, request: GenerationRequest, condition: Condition) -> DenoiseState:
        return DenoiseState(
            latents=torch.full((1, 1), float(request.seed)),
            step=0,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            scheduler="fake",
            generator_states=(torch.zeros(1, dtype=torch.uint8),),
        )

    def step(self, state: DenoiseState, condition: Condition) -> DenoiseState:
        self.gate.wait(self.step_s)
        self.steps.append(int(state.latents.item()))
        return DenoiseState(**{**vars(state), "step": state.step + 1})

    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        return np.full((9, 16, 16, 3), int(latents.item()) % 256, np.uint8)


def serving_config(out: str, **fields: Any) -> ServingConfig:
    generation = GenerationConfig(num_frames=9, height=16, width=16, fps=8.0, num_inference_steps=4)
    return ServingConfig(**{"checkpoint": MODEL, "generation": generation, "out": out, **fields})


class _Method:
    def __init__(self, method: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self._method = method

    def remote(self, *arguments: Any) -> "asyncio.Task[Any]":
        async def call() -> Any:
            values = [await value if isinstance(value, asyncio.Task) else value for value in arguments]
            return await self._method(*values)

        return asyncio.get_running_loop().create_task(call())


class Handle:
    """What the jobs call a deployment by, of an object in this process."""

    def __init__(self, deployment: Any) -> None:
        self._deployment = deployment

    def __getattr__(self, name: str) -> _Method:
        return _Method(getattr(self._deployment, name))


def local_jobs(config: ServingConfig, stages: FakeStages) -> VideoJobs:
    async def report(job_id: str, steps_done: int) -> bool:
        return await jobs.advance(job_id, steps_done)

    graph = (PromptEncoder(stages), Denoiser(stages, report), FrameDecoder(stages, config.out, report))
    jobs = VideoJobs(config, *(Handle(deployment) for deployment in graph))  # type: ignore[arg-type]
    return jobs


@contextmanager
def local_server(config: ServingConfig, stages: FakeStages) -> Iterator[str]:
    """The API over real HTTP on a free port; yields its URL."""
    api = create_api(local_jobs(config, stages), config, MODEL)
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        stages.gate.set()
        server.should_exit = True
        thread.join(30)


def wait_until(true: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {timeout_s} s")
        time.sleep(0.01)


def wait_for(url: str, video_id: str, status: str, timeout_s: float = 60) -> dict[str, Any]:
    """Poll a video until it has ``status``."""
    found: dict[str, Any] = {}

    def reached() -> bool:
        found.update(requests.get(f"{url}/v1/videos/{video_id}", timeout=60).json())
        return bool(found["status"] == status)

    wait_until(reached, timeout_s)
    return found
