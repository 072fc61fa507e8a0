"""The real thing: a Ray Serve application on a tiny checkpoint, over HTTP."""

import hashlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from ray.exceptions import ActorUnavailableError

from mimir_ray.config import UserError
from mimir_ray.generation.checkpoint import load_generator
from mimir_ray.generation.config import GenerationConfig, RuntimeConfig
from mimir_ray.generation.generator import generate
from mimir_ray.serving.app import build, start
from mimir_ray.serving.config import RequestLimits, ServingConfig, StageDeployment
from mimir_ray.video import probe
from tests.serving.local_graph import wait_for, wait_until
from tests.tiny import tiny_mimir


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ServingConfig:
    folder = tmp_path_factory.mktemp("serving")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ServingConfig(
        checkpoint=str(tiny_mimir(folder / "mimir")),
        generation=GenerationConfig(
            num_frames=9,
            height=64,
            width=64,
            fps=8.0,
            num_inference_steps=3,
            guidance_scale=3.0,
            runtime=RuntimeConfig(cpu_threads=1),
        ),
        out=str(folder / "videos"),
        limits=RequestLimits(max_inference_steps=1000),
        port=port,
    )


@pytest.fixture(scope="module")
def url(ray_session: None, config: ServingConfig) -> Iterator[str]:
    from ray import serve

    yield start(config)
    serve.shutdown()


@pytest.mark.timeout(600)
def test_frames_progress_and_cancellation(url: str, config: ServingConfig) -> None:
    def post(**body: object) -> str:
        answer = requests.post(f"{url}/v1/videos", json={"prompt": "a red circle moves left", **body}, timeout=60)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    # Equal frames: the same hash of raw frames as the generator in this process.
    done = wait_for(url, post(seed=5), "completed", 240)
    generator = load_generator(config.checkpoint, config.generation.runtime)
    frames = generate(generator, config.generation.request("a red circle moves left", generator.model, seed=5))
    assert done["frames_sha256"] == hashlib.sha256(frames.tobytes()).hexdigest()
    where = f"{url}/v1/videos/{done['id']}/content"
    content = requests.get(where, timeout=60).content
    assert content == (Path(config.out) / f"{done['id']}.mp4").read_bytes()
    part = requests.get(where, headers={"Range": "bytes=4-7"}, timeout=60)
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert requests.head(where, timeout=60).headers["content-length"] == str(len(content))
    assert probe(Path(config.out) / f"{done['id']}.mp4").frames == 9

    # Progress comes from the steps, and a deleted video frees the denoiser for the next.
    long = post(num_inference_steps=1000)
    began = time.monotonic()
    wait_for(url, long, "in_progress", 240)
    seen: list[int] = []

    def several() -> bool:
        seen.append(requests.get(f"{url}/v1/videos/{long}", timeout=60).json()["steps_done"])
        return len(set(seen)) >= 4

    wait_until(several, 240)
    assert seen == sorted(seen)
    left_s = (1000 - seen[-1]) * (time.monotonic() - began) / seen[-1]
    next_one = post()
    assert requests.delete(f"{url}/v1/videos/{long}", timeout=60).json()["deleted"] is True
    deleted = time.monotonic()
    wait_for(url, next_one, "completed", 240)
    assert time.monotonic() - deleted < left_s / 2
    assert requests.get(f"{url}/v1/videos/{long}", timeout=60).status_code == 404
    assert not (Path(config.out) / f"{long}.mp4").exists()

    # What only the model knows comes back as a failed video with the remedy.
    error = wait_for(url, post(prompt="red " * 100), "failed", 240)["error"]
    assert error["code"] == "invalid_request"
    assert "shorten" in error["message"]
    assert requests.get(f"{url}/health", timeout=60).json()["status"] == "ok"
    assert "<title>" in requests.get(url, timeout=60).text


def test_the_builder_is_strict(config: ServingConfig) -> None:
    args = config.model_dump(mode="json")
    with pytest.raises(UserError, match="args: there is no field chekpoint; did you mean checkpoint"):
        build({**args, "chekpoint": "x"})
    with pytest.raises(UserError, match=r"denoiser\.num_gpus is \"one\""):
        build({**args, "denoiser": {"num_gpus": "one"}})
    with pytest.raises(UserError, match="no checkpoint at"):
        build({**args, "checkpoint": "/nowhere"})


def test_stage_options() -> None:
    fixed = StageDeployment(num_gpus=1).options("Denoiser")
    assert fixed["num_replicas"] == 1
    assert fixed["ray_actor_options"] == {"num_cpus": 0.5, "num_gpus": 1.0}
    scaled = StageDeployment(max_replicas=4).options("Denoiser")
    assert scaled["autoscaling_config"]["max_replicas"] == 4
    assert "num_replicas" not in scaled
    with pytest.raises(ValueError, match="set it to 3"):
        StageDeployment(min_replicas=3)


@pytest.mark.parametrize("error", [ActorUnavailableError("The actor is starved", None), TimeoutError("60 s")])
def test_a_machine_too_busy_for_serve_is_said_in_a_sentence(
    error: Exception, config: ServingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import serve

    def starve(**options: object) -> None:
        raise error

    monkeypatch.setattr(serve, "start", starve)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = config.model_copy(update={"port": probe.getsockname()[1]})
    with pytest.raises(UserError, match=rf"did not start within \d+ s \({type(error).__name__}\): stop what else"):
        start(free)


def test_a_taken_port_is_said_at_once(config: ServingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import serve

    monkeypatch.setattr(serve, "run", lambda *arguments, **named: pytest.fail("it went on"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="--port"):
            start(config.model_copy(update={"port": taken.getsockname()[1]}))
