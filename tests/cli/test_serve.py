"""`mimir serve` before anything is started."""

import socket
from pathlib import Path

import pytest

from mimir_ray.serving.config import ServingConfig
from tests.cli.command import mimir
from tests.tiny import tiny_mimir


def test_what_is_set_for_generation_reaches_the_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[ServingConfig] = []
    monkeypatch.setattr("mimir_ray.cli.ray_cluster.connect", lambda address: None)
    monkeypatch.setattr("mimir_ray.serving.app.check_port", lambda config: None)
    monkeypatch.setattr("mimir_ray.serving.app.run", served.append)
    model = str(tiny_mimir(tmp_path / "mimir"))
    longer = ("--set", "generation.num_frames=17", "--set", "precompute.num_frames=17")
    result = mimir("serve", "--model", model, "--port", "8765", *longer)
    assert result.exit_code == 0, result.output
    (config,) = served
    assert (config.generation.num_frames, config.checkpoint, config.port) == (17, model, 8765)


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
