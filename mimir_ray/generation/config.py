"""What `mimir generate` can be told. Imports neither torch nor ray."""

from typing import Literal, Self

from pydantic import Field, model_validator

from mimir_ray.config import Config
from mimir_ray.records import GenerationRequest
from mimir_ray.room import Need


class StageActors(Config):
    """The actors of one stage of batch generation: how many, and what each reserves."""

    min_actors: int = Field(1, ge=1)
    """Fewest actors."""
    max_actors: int = Field(1, ge=1)
    """Most actors, while there is work for them."""
    num_cpus: float = Field(0.5, ge=0)
    """Half a CPU, so that the three stages fit on two cores: while one computes the others mostly wait for it."""
    num_gpus: float = Field(0.0, ge=0)
    """GPUs of one actor, fractions included; 0 computes on the CPU."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_actors < self.min_actors:
            raise ValueError(f"max_actors is {self.max_actors}, below min_actors: set it to {self.min_actors} or more")
        return self


class Lora(Config):
    """Adapters of the video transformer that are put on a model to generate with."""

    path: str = Field(min_length=1)
    """A .safetensors file, a directory or a hub id; what `mimir export --adapter` wrote brings its token fuser too."""
    scale: float = Field(1.0, allow_inf_nan=False)
    """Their strength; 0 leaves them without effect."""


class RuntimeConfig(Config):
    """How the model computes. Part of what decides the pixels to the last bit, together with the request."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of weights and activations."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` is a GPU where this process sees one."""
    cpu_threads: int = Field(2, ge=1)
    """Threads of every process that computes on the CPU. Fixed, because sums are split by it: with the machine's own
    count the frames of two machines, or of two processes on one, could differ in the last bit."""
    offload: Literal["none", "model", "sequential"] = "none"
    """Where weights wait that do not fit a GPU together: ``model`` brings each part of the model in its turn,
    ``sequential`` each layer, which needs the least and is by far the slowest. The video stays the same."""
    tiling: bool = False
    """Decode a video tile by tile, with less memory. Tiles overlap and are blended, which changes pixels a little."""
    quantize: Literal["none", "bnb-8bit", "bnb-4bit", "torchao-int8"] = "none"
    """Weights of the video transformer in 8 or 4 bits, as bitsandbytes or torchao has them (extra ``quantize``). Only
    what generates: validation shows the weights that training has."""

    lora: tuple[Lora, ...] = ()
    """Adapters of others, put on beside those of the model. Part of the name of the model, and so of every video. Only
    what generates has them: validation shows what training has."""

    @model_validator(mode="after")
    def _can_be_offloaded(self) -> Self:
        if self.quantize != "none" and self.offload == "sequential":
            raise ValueError(
                f"offload is sequential and quantize is {self.quantize}: quantised layers cannot be moved one by one; "
                "set offload to model, or quantize to none"
            )
        return self

    @property
    def arithmetic(self) -> str:
        """What of this decides more than the last bits of a video: the number format, and what is unusual."""
        tiles = ["tiling"] if self.tiling else []
        return " ".join([self.dtype, *([] if self.quantize == "none" else [self.quantize]), *tiles])


class GenerationConfig(Config):
    """The video that a bare prompt asks for, how it is computed, and the actors that work through a prompt list."""

    num_frames: int = Field(ge=1)
    """Frames of the video."""
    height: int = Field(ge=1)
    """In pixels."""
    width: int = Field(ge=1)
    """In pixels."""
    fps: float = Field(gt=0)
    """Frames per second at which it is played."""
    num_inference_steps: int = Field(50, ge=1, le=1000)
    """Denoise steps; the schedule that CogVideoX is trained with has 1000."""
    guidance_scale: float = Field(6.0, ge=0)
    """How far text leads away from the null condition; 1 is no guidance."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Same seed, same video."""
    runtime: RuntimeConfig = RuntimeConfig()

    encode: StageActors = StageActors()
    denoise: StageActors = StageActors()
    decode: StageActors = StageActors()
    worker_restarts: int = Field(3, ge=0)
    """How often an actor that died is started again. A request whose actor died twice over it is quarantined."""

    def needs(self) -> list[Need]:
        """What the actors of a prompt list hold, the fewest that there may be."""
        fields = ("min_actors", "num_cpus", "num_gpus")
        stages = {"encode": self.encode, "denoise": self.denoise, "decode": self.decode}
        return [
            Need(f"generation.{name}", stage.min_actors, stage.num_cpus, stage.num_gpus, fields, self.without_gpu)
            for name, stage in stages.items()
        ]

    @property
    def without_gpu(self) -> str:
        """What has to be set so that it computes without a GPU; empty where nothing has to be."""
        return "generation.runtime.device=auto" if self.runtime.device == "cuda" else ""

    def request(self, prompt: str, model: str, seed: int | None = None) -> GenerationRequest:
        """The request that ``prompt`` means under these defaults."""
        return GenerationRequest(
            prompt=prompt,
            model=model,
            seed=self.seed if seed is None else seed,
            num_frames=self.num_frames,
            height=self.height,
            width=self.width,
            fps=self.fps,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
        )
