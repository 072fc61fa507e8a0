"""Shared fixtures: one Ray for the session, and a network that ends at this machine."""

import os
import re
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# Read by torch, DeepSpeed, Ray and the hub client when they are imported, so they are set before any of them is.
os.environ.update(
    DS_ACCELERATOR="cpu",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DATA_DISABLE_PROGRESS_BARS="1",
    RAY_DEDUP_LOGS="0",
    RAY_worker_niceness="0",  # Ray's 15 lets anything else on a busy machine starve the workers into timeouts
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.1",
    AWS_ACCESS_KEY_ID="test",
    AWS_SECRET_ACCESS_KEY="test",
    AWS_DEFAULT_REGION="us-east-1",
    AWS_EC2_METADATA_DISABLED="true",
)


ALL_CORES = "all cores"
"""The unit of files that start Ray or workers that wait for each other: two of these at a time starve each other."""


@cache
def unit(file: str) -> str:
    """What must run in one process: a file, or all the files that need every core."""
    needs = re.search(r'"ray_session"|\b(ray_session|runs): [\w(]', Path(file).read_text("utf-8"))
    return ALL_CORES if needs else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs every core first: with ``-n`` the others run beside it meanwhile."""
    items.sort(key=lambda item: unit(str(item.path)) != ALL_CORES)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Send whole units to the processes of ``-n``.

    Not by marks: pytest-xdist 3.8 names their group in a field that pytest 9.2 no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByUnit(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return unit(str(config.rootpath / nodeid.split("::")[0]))

    return ByUnit(config, log)


@pytest.fixture(scope="session", autouse=True)
def loopback_only() -> Iterator[None]:
    """Refuse connections from the test process to other machines: no test may need, or reach, a network."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            with socket.socket(self.family, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind((address[0], 0))  # only an address of this machine can be bound
                except OSError:
                    raise ConnectionRefusedError(f"tests stay on this machine, and {address[0]} is not it") from None
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local Ray of 4 logical CPUs, started once; starting one takes seconds, so tests share it."""
    import ray

    token = tmp_path_factory.mktemp("ray") / "auth_token"
    token.write_text("0" * 64)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=200 * 1024**2,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """An S3 bucket served by moto on loopback; the endpoint travels in the location itself."""
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="bucket")
    yield f"s3://bucket?endpoint_override=http://{host}:{port}"
    server.stop()
