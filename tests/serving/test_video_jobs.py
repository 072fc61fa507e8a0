"""The deployment that owns the videos, without HTTP."""

import asyncio
import contextvars
from pathlib import Path
from typing import Any

from mimir_ray.records import GenerationRequest
from mimir_ray.serving.schemas import Video
from mimir_ray.serving.video_jobs import VideoJobs
from tests.serving.local_graph import MODEL, Handle, serving_config

asked_by: contextvars.ContextVar[str] = contextvars.ContextVar("asked_by", default="nobody")


class Waiting:
    """A stage that never ends, and notes who called it and that it was cancelled."""

    def __init__(self) -> None:
        self.called_by: list[str] = []
        self.cancelled = 0

    async def encode(self, *arguments: Any) -> None:
        self.called_by.append(asked_by.get())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    denoise = decode = encode


async def begin(out: Path, stage: Waiting) -> tuple[VideoJobs, str]:
    """A video whose prompt is being encoded."""
    config = serving_config(str(out))
    jobs = VideoJobs(config, *(Handle(stage) for _ in range(3)))  # type: ignore[arg-type]
    request: GenerationRequest = config.generation.request("a", MODEL)
    made = await jobs.create(request)
    assert isinstance(made, Video)
    while not stage.called_by:
        await asyncio.sleep(0)
    return jobs, made.id


def test_a_job_knows_nothing_of_the_request_that_asked_for_it(tmp_path: Path) -> None:
    """Ray Serve keeps the request in a context variable, and cancels with it whatever was called under it."""
    stage = Waiting()

    async def ask() -> None:
        asked_by.set("the request")
        await begin(tmp_path, stage)

    asyncio.run(ask())
    assert set(stage.called_by) == {"nobody"}


def test_who_deletes_a_video_stops_whoever_works_on_it(tmp_path: Path) -> None:
    stage = Waiting()

    async def delete() -> None:
        jobs, job_id = await begin(tmp_path, stage)
        assert stage.cancelled == 0
        assert await jobs.delete(job_id)
        for _ in range(10):
            await asyncio.sleep(0)
        assert stage.cancelled == 1
        assert await jobs.get(job_id) is None
        assert await jobs.counts() == {"queued": 0, "in_progress": 0}

    asyncio.run(delete())
