"""Ray: whether it starts, and whether its token will be found."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from mimir_ray.cli.checks.finding import Finding, failure, ok, warning
from mimir_ray.config import UserError


def auth_token() -> Iterator[Finding]:
    """Token authentication, which a local Ray turns on by itself and a remote client has to be told about."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    default = Path.home() / ".ray" / "auth_token"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else default
    if mode == "disabled":
        yield warning(
            "ray token",
            "RAY_AUTH_MODE=disabled: whoever reaches the cluster's ports can run code on it",
            "unset RAY_AUTH_MODE, or keep those ports closed",
        )
    elif os.environ.get("RAY_AUTH_TOKEN") or path.is_file():
        detail = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else str(path)
        if mode == "token":
            yield ok("ray token", detail)
        else:
            yield warning(
                "ray token",
                f"{detail} exists, so the next `ray start --head` here asks every client for it",
                "export RAY_AUTH_MODE=token before `ray job submit` or `mimir submit`",
            )
    elif named:
        yield failure("ray token", f"RAY_AUTH_TOKEN_PATH names {named}, which is not there", "correct or unset it")
    elif not os.access(default.parent if default.parent.exists() else Path.home(), os.W_OK):
        yield failure(
            "ray token",
            f"{default.parent} cannot be written",
            "set RAY_AUTH_TOKEN_PATH to a file with a token of yours",
        )
    else:
        yield ok("ray token", "none yet: the first local Ray writes ~/.ray/auth_token")


def starts() -> Iterator[Finding]:
    """A local Ray, or the cluster that RAY_ADDRESS names: does it start and run a task?"""
    from mimir_ray.cli.ray_cluster import connect

    address = os.environ.get("RAY_ADDRESS")
    began = time.monotonic()
    try:
        connect()
    except UserError as error:
        yield failure("ray", str(error), "correct or unset RAY_ADDRESS")
        return
    import ray

    @ray.remote(num_cpus=1)
    def one() -> int:
        return 1

    ray.get(one.remote(), timeout=60)
    seconds = time.monotonic() - began
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    ray.shutdown()
    where = f"the cluster at {address}" if address else "a local Ray"
    yield ok(
        "ray",
        f"{ray.__version__}, {where} answers after {seconds:.0f} s with {slots(resources.get('CPU', 0), address)} and "
        f"{resources.get('GPU', 0):.0f} GPUs",
    )


def slots(cpus: float, address: str | None) -> str:
    """Ray's CPUs in words. They are slots for tasks, and on a small machine we ask for more of them than it has."""
    cores = os.cpu_count() or 1
    if address or cpus <= cores:
        return f"{cpus:.0f} CPUs"
    return f"{cpus:.0f} CPUs (slots for tasks, on {cores} real ones: training and what feeds it need as many to start)"
