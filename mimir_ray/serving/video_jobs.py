"""The deployment that owns the videos: it sends each through the graph, outside any HTTP request."""

import asyncio
import contextvars
import logging
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.fs as pafs

from mimir_ray.config import UserError
from mimir_ray.records import GenerationRequest
from mimir_ray.serving.config import ServingConfig
from mimir_ray.serving.deployments import Decoded, video_path
from mimir_ray.serving.jobs import Job, JobStore, QueueFull
from mimir_ray.serving.schemas import Video, VideoList
from mimir_ray.storage import filesystem

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)


class VideoJobs:
    """The one replica that knows every video. Ingress replicas and stages ask it; it computes nothing itself."""

    def __init__(
        self,
        config: ServingConfig,
        encoder: "DeploymentHandle[Any]",
        denoiser: "DeploymentHandle[Any]",
        decoder: "DeploymentHandle[Any]",
    ) -> None:
        self._out = config.out
        self._encoder, self._denoiser, self._decoder = encoder, denoiser, decoder
        self._store = JobStore(config.max_unfinished, config.denoiser.max_replicas)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def create(self, request: GenerationRequest) -> Video | QueueFull:
        """Queue a video and return at once."""
        job = self._store.create(request)
        if isinstance(job, QueueFull):
            return job
        # An empty context: the job must not be cancelled with the HTTP request that asked for it.
        task = asyncio.get_running_loop().create_task(self._make(job), context=contextvars.Context())
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))
        return self._store.view(job)

    async def get(self, job_id: str) -> Video | None:
        """None where there is no such video."""
        job = self._store.get(job_id)
        return None if job is None else self._store.view(job)

    async def page(self, after: str | None, limit: int, order: Literal["asc", "desc"]) -> VideoList | None:
        """None where ``after`` is unknown."""
        return self._store.page(after, limit, order)

    async def delete(self, job_id: str) -> bool:
        """Forget a video, remove its file and stop whoever works on it. False where there is none."""
        if self._store.delete(job_id) is None:
            return False
        if (task := self._tasks.get(job_id)) is not None:
            task.cancel()
        await asyncio.to_thread(_remove, video_path(self._out, job_id))
        return True

    async def advance(self, job_id: str, steps_done: int) -> bool:
        """A stage reports; the answer says whether the video is still wanted."""
        return self._store.advance(job_id, steps_done)

    async def counts(self) -> dict[str, int]:
        """Unfinished videos by status."""
        unfinished = self._store.unfinished()
        running = sum(job.status == "in_progress" for job in unfinished)
        return {"queued": len(unfinished) - running, "in_progress": running}

    async def _make(self, job: Job) -> None:
        # Responses go into the next call as they are: the value travels between the replicas, not through here.
        encoded = self._encoder.encode.remote(job.request)
        denoised = self._denoiser.denoise.remote(job.id, job.request, encoded)
        decoded = self._decoder.decode.remote(job.id, job.request, denoised)
        stages = {"encoding the prompt": encoded, "denoising": denoised, "decoding": decoded}
        try:
            result: Decoded = await decoded
        except asyncio.CancelledError:
            for response in stages.values():
                response.cancel()  # type: ignore[no-untyped-call]
            raise
        except Exception:
            code, message = await _first_failure(stages)
            self._store.fail(job.id, code, message)
        else:
            self._store.complete(job.id, result.frames_sha256, result.durations)


async def _first_failure(stages: dict[str, Any]) -> tuple[str, str]:
    """Code and message of the stage that failed; the stages after it failed for want of its result."""
    for doing, response in stages.items():
        try:
            await response
        except UserError as error:
            return "invalid_request", str(getattr(error, "cause", error))
        except Exception as error:
            cause = getattr(error, "cause", error)
            logger.exception("%s failed", doing)
            return "generation_failed", f"{doing}: {type(cause).__name__}: {cause}"
    return "generation_failed", "a stage was lost; ask for the video again"


def _remove(uri: str) -> None:
    system, path = filesystem(uri)
    if system.get_file_info(path).type == pafs.FileType.File:
        system.delete_file(path)
