"""A stand-in of the cluster's job server."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any


class FakeClient:
    """A job server that runs one job to a given end."""

    def __init__(self, status: str = "SUCCEEDED", code: int | None = 0) -> None:
        self.details = SimpleNamespace(status=status, driver_exit_code=code, message="")
        self.submitted: dict[str, Any] = {}

    def submit_job(self, **job: Any) -> str:
        self.submitted = job
        return "raysubmit_1"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield "step 1\n"
        yield "step 2\n"

    def get_job_info(self, job: str) -> SimpleNamespace:
        return self.details
