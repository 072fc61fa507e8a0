"""`mimir serve` before anything is started."""

import socket

import pytest

from tests.cli.command import mimir


def test_a_taken_port_is_told_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(address: str | None) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("mimir_ray.cli.ray_cluster.connect", never)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = mimir("serve", "--port", str(port))
    assert result.exit_code == 2, result.output
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use); choose another with --port" in result.stderr
