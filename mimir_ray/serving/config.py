"""What `mimir serve` can be told. Imports neither torch nor ray."""

from typing import Any, Self

from pydantic import Field, model_validator

from mimir_ray.config import Config
from mimir_ray.generation.config import GenerationConfig
from mimir_ray.room import Need

LIGHT_CPUS = 0.1
"""CPUs of a replica that computes nothing: of the part that answers HTTP, and of the list of jobs."""


class StageDeployment(Config):
    """One stage's replicas: how many, what each reserves, and when there are more or fewer of them."""

    min_replicas: int = Field(1, ge=1)
    """Fewest replicas."""
    max_replicas: int = Field(1, ge=1)
    """Most replicas; above the fewest, Ray Serve scales between them."""
    num_cpus: float = Field(0.5, ge=0)
    """CPUs that a replica reserves."""
    num_gpus: float = Field(0.0, ge=0)
    """GPUs of one replica, fractions included; 0 computes on the CPU."""
    max_ongoing_requests: int = Field(4, ge=1)
    """Requests a replica holds; it computes one, and the others wait beside it so that no gap opens between two."""
    target_ongoing_requests: float = Field(2.0, gt=0)
    """Autoscaling aims at this many requests per replica, computing and waiting."""
    upscale_delay_s: float = Field(10.0, ge=0)
    """How long more replicas must be wanted before there are more."""
    downscale_delay_s: float = Field(300.0, ge=0)
    """How long fewer replicas must do before there are fewer."""
    graceful_shutdown_timeout_s: float = Field(600.0, gt=0)
    """How long a replica that is to go may finish what it computes; shorter than a video, it kills one."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, below min_replicas: set it to {self.min_replicas}")
        return self

    def options(self, name: str) -> dict[str, Any]:
        """Options of ``serve.deployment``."""
        options: dict[str, Any] = {
            "name": name,
            "ray_actor_options": {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus},
            "max_ongoing_requests": self.max_ongoing_requests,
            "graceful_shutdown_timeout_s": self.graceful_shutdown_timeout_s,
        }
        if self.min_replicas == self.max_replicas:
            return {**options, "num_replicas": self.min_replicas}
        return {
            **options,
            "autoscaling_config": {
                "min_replicas": self.min_replicas,
                "max_replicas": self.max_replicas,
                "target_ongoing_requests": self.target_ongoing_requests,
                "upscale_delay_s": self.upscale_delay_s,
                "downscale_delay_s": self.downscale_delay_s,
            },
        }


class RequestLimits(Config):
    """The largest video that one request may ask for."""

    max_frames: int = Field(257, ge=1)
    """Frames of a video."""
    max_pixels: int = Field(1360 * 768, ge=1)
    """Height x width."""
    max_inference_steps: int = Field(200, ge=1)
    """Denoise steps."""
    max_prompt_characters: int = Field(4000, ge=1)
    """Characters of a prompt."""


class EndpointConfig(Config):
    """How the endpoint runs, whatever it serves: what a recipe says of serving."""

    out: str = "runs/serve"
    """Where finished videos are kept; with replicas on several nodes, storage that all of them see."""
    max_unfinished: int = Field(32, ge=1)
    """Videos queued or in progress; one more is answered with 429 and Retry-After."""
    limits: RequestLimits = RequestLimits()
    encoder: StageDeployment = StageDeployment()
    denoiser: StageDeployment = StageDeployment()
    decoder: StageDeployment = StageDeployment()
    ingress_replicas: int = Field(1, ge=1)
    """Replicas of the part that answers HTTP."""
    host: str = "127.0.0.1"
    """Address that HTTP listens on; 0.0.0.0 opens the endpoint, which has no authentication, to the network."""
    port: int = Field(8000, ge=1, le=65535)
    """Port that HTTP listens on."""


class ServingConfig(EndpointConfig):
    """The endpoint with what it serves: the whole of what a Serve YAML says."""

    checkpoint: str = Field(min_length=1)
    """A MimirPipeline or CogVideoX checkpoint: a directory or a hub id."""
    generation: GenerationConfig
    """What a request that names only its prompt means, and how the model computes."""

    def needs(self) -> list[Need]:
        """What the replicas hold, the fewest that there may be."""
        fields, without_gpu = ("min_replicas", "num_cpus", "num_gpus"), self.generation.without_gpu
        stages = {"encoder": self.encoder, "denoiser": self.denoiser, "decoder": self.decoder}
        return [
            *(
                Need(f"serving.{name}", stage.min_replicas, stage.num_cpus, stage.num_gpus, fields, without_gpu)
                for name, stage in stages.items()
            ),
            Need("serving", self.ingress_replicas, LIGHT_CPUS, fields=("ingress_replicas", "", "")),
            Need("the list of jobs", cpus=LIGHT_CPUS, fields=("", "", "")),
        ]

    @model_validator(mode="after")
    def _a_bare_prompt_is_allowed(self) -> Self:
        usual, limits = self.generation, self.limits
        asked = {
            "max_frames": ("num_frames", usual.num_frames),
            "max_pixels": ("height x width", usual.height * usual.width),
            "max_inference_steps": ("num_inference_steps", usual.num_inference_steps),
        }
        for limit, (name, value) in asked.items():
            if value > getattr(limits, limit):
                raise ValueError(
                    f"generation asks for {name} of {value} where a request names only its prompt, and limits.{limit} "
                    f"is {getattr(limits, limit)}, so that it would be refused; raise limits.{limit} to {value}"
                )
        return self
