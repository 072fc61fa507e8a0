"""The stages of the Serve graph: PromptEncoder -> Denoiser -> FrameDecoder.

Plain classes; ``app.build`` makes deployments of them. Each computes in one thread of its own, one request at a time,
while its event loop stays free: a cancelled request is noticed between two denoise steps. What passes from stage to
stage is bytes of a few MB by reference, never frames.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, ParamSpec, TypeVar

from mimir_ray.records import GenerationRequest
from mimir_ray.serving.stages import Decode, Denoise, Encode, Stages
from mimir_ray.storage import join, write_bytes

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

Report = Callable[[str, int], Awaitable[bool]]
"""(job id, denoise steps done) -> whether the video is still wanted."""


class Unwanted(Exception):
    """The video was deleted; nobody waits for the result."""


@dataclass(frozen=True)
class Encoded:
    """A prompt's condition."""

    condition: bytes
    encode_s: float


@dataclass(frozen=True)
class Denoised:
    """A finished ``DenoiseState``."""

    state: bytes
    encode_s: float
    denoise_s: float


@dataclass(frozen=True)
class Decoded:
    """What is known of a written video."""

    frames_sha256: str
    durations: dict[str, float]


class _Worker(Generic[S]):
    """A stage in a thread of its own, and a queue of one in front of it."""

    def __init__(self, load: Callable[[], S]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stage")
        self.stage = self._thread.submit(load).result()
        self.turn = asyncio.Semaphore(1)

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """``work(*args)`` in the stage's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))


class PromptEncoder:
    """Prompt to condition."""

    def __init__(self, stages: Stages) -> None:
        self._worker: _Worker[Encode] = _Worker(stages.encode_stage)

    async def encode(self, request: GenerationRequest) -> Encoded:
        """Raises UserError for a prompt or size that the model cannot take."""
        async with self._worker.turn:
            return await self._worker.run(self._encode, request)

    def _encode(self, request: GenerationRequest) -> Encoded:
        from mimir_ray.generation.stages import Stopwatch

        watch = Stopwatch()
        condition = self._worker.stage.encode(request).to_bytes()
        return Encoded(condition, watch.lap())


class Denoiser:
    """Condition to latents, reporting every step."""

    def __init__(self, stages: Stages, report: Report | None = None) -> None:
        self._worker: _Worker[Denoise] = _Worker(stages.denoise_stage)
        self._report = report or ReportToJobs()

    async def denoise(self, job_id: str, request: GenerationRequest, encoded: Encoded) -> Denoised:
        """Raises Unwanted, after the step in progress, where the video was deleted."""
        from mimir_ray.generation.stages import Condition, Stopwatch

        async with self._worker.turn:
            if not await self._report(job_id, 0):
                raise Unwanted(job_id)
            watch = Stopwatch()
            condition = Condition.from_bytes(encoded.condition)
            state = await self._worker.run(self._worker.stage.start, request, condition)
            # The report of a step travels while the next step is computed.
            reported = asyncio.ensure_future(self._report(job_id, 0))
            try:
                while not state.finished:
                    state = await self._worker.run(self._worker.stage.step, state, condition)
                    if not await reported:
                        raise Unwanted(job_id)
                    reported = asyncio.ensure_future(self._report(job_id, state.step))
                await reported
            finally:
                reported.cancel()
            return Denoised(state.to("cpu").to_bytes(), encoded.encode_s, watch.lap())


class FrameDecoder:
    """Latents to a video file."""

    def __init__(self, stages: Stages, out: str, report: Report | None = None) -> None:
        self._worker: _Worker[Decode] = _Worker(stages.decode_stage)
        self._out = out
        self._report = report or ReportToJobs()

    async def decode(self, job_id: str, request: GenerationRequest, denoised: Denoised) -> Decoded:
        """Write the video to ``video_path``."""
        async with self._worker.turn:
            if not await self._report(job_id, request.num_inference_steps):
                raise Unwanted(job_id)
            return await self._worker.run(self._decode, job_id, request, denoised)

    def _decode(self, job_id: str, request: GenerationRequest, denoised: Denoised) -> Decoded:
        from mimir_ray.generation.stages import DenoiseState, Stopwatch
        from mimir_ray.video import encode_mp4

        watch = Stopwatch()
        frames = self._worker.stage.decode(DenoiseState.from_bytes(denoised.state).latents)
        write_bytes(video_path(self._out, job_id), encode_mp4(frames, request.fps))
        seconds = {"encode": denoised.encode_s, "denoise": denoised.denoise_s, "decode": watch.lap()}
        return Decoded(
            hashlib.sha256(frames.tobytes()).hexdigest(), {stage: round(value, 4) for stage, value in seconds.items()}
        )


class ReportToJobs:
    """``Report`` to the VideoJobs deployment of the application this replica belongs to."""

    def __init__(self) -> None:
        self._report: Report | None = None

    async def __call__(self, job_id: str, steps_done: int) -> bool:
        if self._report is None:
            from ray import serve

            jobs = serve.get_deployment_handle("VideoJobs", app_name=serve.get_replica_context().app_name)
            self._report = jobs.advance.remote
        return await self._report(job_id, steps_done)


def video_path(out: str, job_id: str) -> str:
    """Where a job's mp4 is."""
    return join(out, f"{job_id}.mp4")
