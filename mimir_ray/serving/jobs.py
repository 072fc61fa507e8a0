"""The videos a server knows: who waits, who runs, how far, and how it ended. Pure bookkeeping, without Ray.

State lives in the memory of one process, the only replica of the VideoJobs deployment: a restart forgets the list.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from mimir_ray.records import GenerationRequest
from mimir_ray.serving.schemas import Video, VideoError, VideoList, VideoStatus, seconds_text


@dataclass
class Job:
    """One video's life."""

    id: str
    request: GenerationRequest
    created_at: float
    status: VideoStatus = "queued"
    steps_done: int = 0
    started_at: float | None = None
    completed_at: float | None = None
    durations: dict[str, float] = field(default_factory=dict)
    error: VideoError | None = None
    frames_sha256: str | None = None

    @property
    def finished(self) -> bool:
        return self.status in ("completed", "failed")

    @property
    def progress(self) -> int:
        """Percent: every denoise step counts as one, and decoding as the last."""
        if self.status == "completed":
            return 100
        return int(100 * self.steps_done / (self.request.num_inference_steps + 1))


@dataclass(frozen=True)
class QueueFull:
    """No room for another unfinished video."""

    unfinished: int
    retry_after_s: int
    """When one is expected to be done."""


class JobStore:
    """Every job by id, in order of creation."""

    def __init__(self, max_unfinished: int, replicas: int = 1, now: Callable[[], float] = time.time) -> None:
        self._jobs: dict[str, Job] = {}
        self._max_unfinished = max_unfinished
        self._replicas = replicas
        self._now = now
        self._step_s: float | None = None
        """Seconds of a step, an exponential average over the last steps of any job."""

    def create(self, request: GenerationRequest) -> Job | QueueFull:
        """A queued job, where there is room for one."""
        unfinished = self.unfinished()
        if len(unfinished) >= self._max_unfinished:
            soonest = min((self._left_s(job) or 5.0 for job in unfinished), default=5.0)
            return QueueFull(len(unfinished), max(1, round(soonest)))
        job = Job(id=f"video_{secrets.token_hex(12)}", request=request, created_at=self._now())
        self._jobs[job.id] = job
        return job

    def get(self, job_id: str) -> Job | None:
        """None where there is no such job, or no more."""
        return self._jobs.get(job_id)

    def unfinished(self) -> list[Job]:
        """Queued and running, in order of creation."""
        return [job for job in self._jobs.values() if not job.finished]

    def delete(self, job_id: str) -> Job | None:
        """Forget a job; whoever works on it learns so from the next ``advance``."""
        return self._jobs.pop(job_id, None)

    def advance(self, job_id: str, steps_done: int) -> bool:
        """A denoiser has taken the job (0 steps) or made steps of it. False: nobody wants it any more, stop."""
        job = self._jobs.get(job_id)
        if job is None or job.finished:
            return False
        now = self._now()
        if job.started_at is None:
            job.status, job.started_at = "in_progress", now
        elif steps_done > job.steps_done:
            step_s = (now - job.started_at) / steps_done
            self._step_s = step_s if self._step_s is None else 0.8 * self._step_s + 0.2 * step_s
        job.steps_done = max(job.steps_done, steps_done)
        return True

    def complete(self, job_id: str, frames_sha256: str, durations: dict[str, float]) -> None:
        """The video is written."""
        if (job := self._jobs.get(job_id)) is not None:
            job.status, job.completed_at = "completed", self._now()
            job.frames_sha256, job.durations = frames_sha256, durations

    def fail(self, job_id: str, code: str, message: str) -> None:
        """The video will not come."""
        if (job := self._jobs.get(job_id)) is not None:
            job.status, job.completed_at = "failed", self._now()
            job.error = VideoError(code=code, message=message)

    def view(self, job: Job) -> Video:
        """The job as the API shows it."""
        request = job.request
        queued = [other.id for other in self._jobs.values() if other.status == "queued"]
        return Video(
            id=job.id,
            model=request.model,
            status=job.status,
            progress=job.progress,
            prompt=request.prompt,
            created_at=int(job.created_at),
            completed_at=None if job.completed_at is None else int(job.completed_at),
            seconds=seconds_text(request),
            size=f"{request.width}x{request.height}",
            error=job.error,
            seed=request.seed,
            num_frames=request.num_frames,
            fps=request.fps,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            steps_done=job.steps_done,
            queue_position=queued.index(job.id) if job.status == "queued" else None,
            eta_s=None if job.finished else self._eta_s(job),
            stage_durations=dict(job.durations),
            frames_sha256=job.frames_sha256,
        )

    def page(self, after: str | None, limit: int, order: Literal["asc", "desc"]) -> VideoList | None:
        """Some of the jobs, newest first for ``desc``. None where ``after`` is unknown."""
        ids = list(self._jobs) if order == "asc" else list(reversed(self._jobs))
        if after is not None and after not in self._jobs:
            return None
        ids = ids[ids.index(after) + 1 :] if after is not None else ids
        data = [self.view(self._jobs[job_id]) for job_id in ids[:limit]]
        return VideoList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=len(ids) > limit,
        )

    def _left_s(self, job: Job) -> float | None:
        """Seconds of work left in one job alone."""
        if self._step_s is None:
            return None
        return self._step_s * (job.request.num_inference_steps - job.steps_done)

    def _eta_s(self, job: Job) -> float | None:
        if self._step_s is None:
            return None
        ahead = 0.0
        if job.status == "queued":
            for other in self.unfinished():
                if other.id == job.id:
                    break
                ahead += self._left_s(other) or 0.0
        return round(ahead / self._replicas + (self._left_s(job) or 0.0), 2)
