"""The Serve application, and the process that runs it on this machine.

serve run mimir_ray.serving.app:build checkpoint=out/export ...          # or a Serve YAML: import_path and args
"""

import contextlib
import io
import logging
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mimir_ray.config import UserError, from_dict
from mimir_ray.generation.naming import located, name_of_runnable
from mimir_ray.room import room
from mimir_ray.serving.config import LIGHT_CPUS, ServingConfig
from mimir_ray.serving.deployments import Denoiser, FrameDecoder, PromptEncoder
from mimir_ray.serving.stages import CheckpointStages, Stages
from mimir_ray.serving.video_jobs import VideoJobs
from mimir_ray.storage import absolute

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)

APP_NAME = "mimir"


class VideosApi:
    """The ingress: HTTP alone, any number of replicas."""

    def __init__(self, config: ServingConfig, model: str, jobs: "DeploymentHandle[Any]") -> None:
        self._config = config
        self._model = model
        self._jobs = jobs

    def __serve_build_asgi_app__(self) -> "FastAPI":
        from mimir_ray.serving.api import create_api

        return create_api(_RemoteJobs(self._jobs), self._config, self._model)


class _RemoteJobs:
    """``api.Jobs`` over a deployment handle: every method is a call of the one VideoJobs replica."""

    def __init__(self, handle: "DeploymentHandle[Any]") -> None:
        self.create = handle.create.remote
        self.get = handle.get.remote
        self.page = handle.page.remote
        self.delete = handle.delete.remote
        self.counts = handle.counts.remote


def build(args: Mapping[str, Any]) -> "Application":
    """The application that ``args`` (the fields of ``ServingConfig``) describe; what a Serve YAML names.

    Raises:
        UserError: an unknown or ill-typed field, no checkpoint, or one that cannot be run.
    """
    return application(from_dict(ServingConfig, args, "args"))


def application(config: ServingConfig, stages: Stages | None = None) -> "Application":
    """VideosApi -> VideoJobs -> PromptEncoder -> Denoiser -> FrameDecoder. ``stages`` replace the checkpoint's."""
    from ray import serve

    config = config.model_copy(update={"out": absolute(config.out)})
    if stages is None:
        model = name_of_runnable(config.checkpoint, config.generation.runtime.lora)
        stages = CheckpointStages(_found(config.checkpoint), located(config.generation.runtime))
    else:
        model = config.checkpoint
    encoder = serve.deployment(**config.encoder.options("PromptEncoder"))(PromptEncoder).bind(stages)
    denoiser = serve.deployment(**config.denoiser.options("Denoiser"))(Denoiser).bind(stages)
    decoder = serve.deployment(**config.decoder.options("FrameDecoder"))(FrameDecoder).bind(stages, config.out)
    light: dict[str, Any] = {"ray_actor_options": {"num_cpus": LIGHT_CPUS}, "max_ongoing_requests": 1000}
    jobs = serve.deployment(name="VideoJobs", num_replicas=1, **light)(VideoJobs)
    ingress = serve.deployment(name="VideosApi", num_replicas=config.ingress_replicas, **light)(
        serve.ingress()(VideosApi)
    )
    return ingress.bind(config, model, jobs.bind(config, encoder, denoiser, decoder))


def start(config: ServingConfig, stages: Stages | None = None) -> str:
    """Serve on ``config.host:port`` of an initialised Ray and return the URL once requests are answered.

    Raises:
        UserError: no checkpoint, a port that is taken, a cluster without room for the replicas, or a machine on which
            Ray Serve does not start.
    """
    began = time.monotonic()
    app = application(config, stages)
    check_port(config)
    with room("serving", config.needs()):
        _deploy(app, config)
    host = "127.0.0.1" if config.host == "0.0.0.0" else config.host
    url = f"http://{host}:{config.port}"
    logger.info("ready at %s after %.1f s", url, time.monotonic() - began)
    return url


def _deploy(app: "Application", config: ServingConfig) -> None:
    """Start Serve and the replicas; returns when requests are answered."""
    from ray import serve
    from ray.exceptions import RayError

    began = time.monotonic()
    try:
        serve.start(http_options={"host": config.host, "port": config.port}, logging_config={"log_level": "WARNING"})
    except (RayError, TimeoutError) as error:
        raise UserError(
            f"Ray Serve did not start within {time.monotonic() - began:.0f} s ({type(error).__name__}): stop what else "
            "keeps this machine busy, see that it has memory left, and try again; Ray's logs say more"
        ) from error
    serve.run(app, name=APP_NAME, route_prefix="/", blocking=False)


def run(config: ServingConfig) -> None:
    """Serve until interrupted (Ctrl-C), then stop the endpoint. Needs an initialised Ray."""
    from ray import serve

    try:
        start(config)
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        logger.info("stopping")
    finally:
        # Ray prints that the call that stops Serve has failed: the controller ends before it can answer.
        with contextlib.redirect_stdout(io.StringIO()) as said:
            serve.shutdown()  # type: ignore[no-untyped-call]
        logger.debug("while it stopped, Ray said: %s", said.getvalue())


def check_port(config: ServingConfig) -> None:
    """Raise UserError for an address that cannot be listened on, which Serve would try for a minute."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a closed server left in TIME_WAIT is free
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise UserError(
                f"cannot listen on {config.host}:{config.port} ({error.strerror}); choose another with --port or --host"
            ) from None


def _found(checkpoint: str) -> str:
    """Replicas start in other directories: a local checkpoint is named absolutely."""
    from pathlib import Path

    folder = Path(checkpoint).expanduser()
    return str(folder.resolve()) if folder.is_dir() else checkpoint
