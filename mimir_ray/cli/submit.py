"""`mimir submit`: send a verb to a Ray cluster as a job, follow its log, end with its exit code."""

import asyncio
import logging
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from mimir_ray.cli.job_arguments import job_arguments
from mimir_ray.cli.verb import DONE, FAILED, register
from mimir_ray.config import UserError
from mimir_ray.console import results, status

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

VERBS = ("curate", "precompute", "train", "generate")
"""Verbs that have a module in jobs/."""
EXCLUDES = ["tests"]
"""Left out of the upload, besides what Ray (.git, .venv) and .gitignore (runs) leave out."""

STARTING_CLUSTER_S = 60.0

logger = logging.getLogger(__name__)


def add_to(app: typer.Typer) -> None:
    """Register the verb of this module."""
    register(
        app,
        "submit",
        examples=[
            "mimir submit curate -- /data/raw --out s3://b/data",
            "mimir submit train --address http://head:8265 -- \\",
            "    --data s3://b/data --out s3://b/train --recipe mimir_5b",
        ],
    )(submit)


def submit(
    context: typer.Context,
    verb: Annotated[str, typer.Argument(metavar="VERB", help=f"One of {', '.join(VERBS)}.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="-- ARGUMENTS...", help="The verb's own options, after two dashes.")
    ] = None,
    address: Annotated[
        str, typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    working_dir: Annotated[
        Path, typer.Option("--working-dir", help="The repository to upload; must hold jobs/ and mimir_ray/.")
    ] = Path(),
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log until the job ends.")] = True,
) -> None:
    """Run a verb on a Ray cluster, follow its log and end with its exit code.

    The options are checked here, before anything is sent. What --config files and a --recipe module:function say goes
    with the job as --set, so that the cluster needs neither.

    A cluster with token authentication needs RAY_AUTH_MODE=token and the token in RAY_AUTH_TOKEN or the file
    RAY_AUTH_TOKEN_PATH.
    """
    root = working_dir.resolve()
    checked = _check(context, verb, arguments or [], root)
    entrypoint = shlex.join(["python", "-m", f"jobs.{verb}", *checked])
    client = open_client(address)
    job = send(client, entrypoint, root)
    status.print(f"submitted {job}: {entrypoint}", soft_wrap=True)
    status.print(f"stop it with: ray job stop {job} --address {address}", soft_wrap=True)
    if not wait:
        results.print(job)
        return
    try:
        code = follow(client, job)
    except KeyboardInterrupt:
        status.print(
            f"The job goes on; follow it with: ray job logs --follow {job} --address {address}", soft_wrap=True
        )
        raise
    raise typer.Exit(code)


def open_client(address: str) -> "JobSubmissionClient":
    """A client of the cluster's job server at `address`.

    Raises:
        UserError: nobody answers there, or the token is missing or wrong.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    if not address.startswith(("http://", "https://")):
        raise UserError(
            f"--address {address!r} is not the address of a dashboard; write http://HOST:8265 (with KubeRay, after "
            "`kubectl port-forward service/CLUSTER-head-svc 8265`)"
        )
    try:
        return JobSubmissionClient(address)
    except ConnectionError:
        raise UserError(
            f"no Ray job server answers at {address}: check that the cluster is up and its dashboard's port is "
            "reachable (default 8265; `ray dashboard` or `kubectl port-forward` open a tunnel)"
        ) from None
    except AuthenticationError as error:
        raise UserError(
            f"{address} refused us ({error.message.splitlines()[0]}): set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH "
            "to the file with the cluster's token (on its head: ~/.ray/auth_token)"
        ) from None


def send(client: "JobSubmissionClient", entrypoint: str, root: Path) -> str:
    """Upload the repository at `root` and start `entrypoint` in it; the submission id.

    A cluster that has just started answers before it can take jobs; that is waited for.

    Raises:
        UserError: the cluster's head still takes no jobs after `STARTING_CLUSTER_S`.
    """
    runtime_env = {
        "working_dir": str(root),
        "excludes": EXCLUDES,
        "env_vars": {"PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0"},
    }
    deadline = time.monotonic() + STARTING_CLUSTER_S
    while True:
        try:
            return client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise UserError(
                    f"the cluster answers but has taken no job for {STARTING_CLUSTER_S:.0f} s: the agent on its head "
                    "node did not start. Another Ray on that machine may hold the agent's port (default 52365): "
                    "start the cluster with `ray start --head --dashboard-agent-listen-port=PORT`"
                ) from None
            time.sleep(1)


def follow(client: "JobSubmissionClient", job: str) -> int:
    """Copy the job's log to standard output until it ends; its driver's exit code."""
    asyncio.run(_copy_log(client, job))
    details = client.get_job_info(job)
    code = exit_code(details)
    if code != DONE:
        reason = f": {details.message}" if details.message else ""
        status.print(Text(f"job {job} ended as {details.status} with exit code {code}{reason}", style="red"))
    return code


def exit_code(details: "JobDetails | Any") -> int:
    """The driver's own exit code; 1 where it was stopped or never started."""
    if details.status == "SUCCEEDED":
        return DONE
    code: int | None = details.driver_exit_code
    return code if code is not None and 0 < code < 256 else FAILED


async def _copy_log(client: "JobSubmissionClient", job: str) -> None:
    async for lines in client.tail_job_logs(job):
        results.print(Text.from_ansi(lines), end="")


def _check(context: typer.Context, verb: str, arguments: list[str], root: Path) -> list[str]:
    """The job's arguments; what it would refuse in minutes is refused: an unknown verb or option, a bad recipe, the
    wrong directory."""
    if verb not in VERBS:
        raise UserError(f"there is no job {verb!r}; choose one of {', '.join(VERBS)}")
    if not (root / "jobs" / f"{verb}.py").is_file() or not (root / "mimir_ray").is_dir():
        raise UserError(f"--working-dir {str(root)!r} holds no jobs/{verb}.py; run from the repository or name it")
    assert context.parent is not None
    command = context.parent.command.get_command(context.parent, verb)  # type: ignore[attr-defined]
    with command.make_context(f"mimir {verb}", list(arguments), parent=context.parent) as parsed:
        with_value = {name for option in command.params if not getattr(option, "is_flag", True) for name in option.opts}
        return job_arguments(parsed.params, arguments, with_value)
