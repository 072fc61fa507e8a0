"""What `mimir precompute` can be told. Imports neither torch nor ray."""

from typing import Literal, Self

from pydantic import Field, model_validator

from mimir_ray.config import Config
from mimir_ray.dataflow import ActorPool
from mimir_ray.records import StateDtype
from mimir_ray.vllm import VllmPool


class Size(Config):
    """What a clip is encoded at."""

    num_frames: int = Field(ge=1)
    """Frames of a clip."""
    height: int = Field(ge=1)
    """In pixels."""
    width: int = Field(ge=1)
    """In pixels."""


class PrecomputeConfig(Config):
    """How clips become latents and captions become token states.

    Which models do it, in which precision, and what the LLM is asked, is `ModelConfig`.
    """

    num_frames: int = Field(ge=1)
    """Frames that the video transformer is trained on."""
    height: int = Field(ge=1)
    """Of the frames, in pixels."""
    width: int = Field(ge=1)
    """Of the frames, in pixels."""
    buckets: tuple[Size, ...] = ()
    """Further sizes. A clip is encoded at one of all: of those whose aspect is nearest to its own the one with the most
    frames that it can fill, and of these the one nearest in area."""
    sample_fps: float | None = Field(None, gt=0)
    """None spreads the frames evenly over the whole clip (9 of 65 frames: every 8th). A number takes them at that rate
    from the middle of the clip, by when they are shown, and a clip too short for that is rejected."""
    decode_timeout_s: float = Field(60.0, gt=0)
    """Wall time after which a clip that does not decode is quarantined, until that is tried again when asked for; one
    that begins late in its video has 20 s more for each second before it."""

    long_captions: Literal["truncate", "reject"] = "truncate"
    """What becomes of captions of more tokens than the text encoder reads; how many are truncated is said."""
    answers: int = Field(1, ge=1)
    """Sampled LLM answers kept per caption (K): answer k is the one the pipeline gives with the seed ``seed + k``."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the sampled answers."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What writes the answers. ``transformers`` runs on any machine; ``vllm`` writes many at once on GPUs of its own,
    and needs the extra `vllm`. States are made by transformers from either's token ids."""

    vae_tiling: bool = False
    """Encode frames in overlapping tiles of half the VAE's own size: less memory and, at the seams, other latents."""
    vae_slicing: bool = False
    """Encode the clips of a batch one after another: less memory and the same latents."""
    least_psnr_db: float | None = 22.0
    """How well the VAE has to give the first clips back, or nothing is encoded; null encodes whatever it makes of them.
    The VAE of the shapes world gives its own clips back at 31 to 33 dB, and videos of real things at 7 to 17."""

    dtype: StateDtype = "float16"
    """Number format of stored latents and states."""

    latents: ActorPool = ActorPool(batch=8)
    t5_tokens: ActorPool = ActorPool(batch=64)
    llm_tokens: ActorPool = ActorPool(batch=64)
    vllm: VllmPool = VllmPool()
    """Where ``engine`` is vllm: it writes the answers, and the actors of ``llm_tokens`` read them."""

    clips_per_shard: int = Field(128, ge=1)
    """A shard of a table holds half to twice as many clips, or their captions: as far as curation's shards allow in
    powers of two. The latents of 128 clips of 49 frames of 480x720 take 548 MiB."""
    failed_shards: int = Field(3, ge=0)
    """A shard is given up when its actor failed on it. The others go on until more than this many were given up."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError("a size is given twice, num_frames, height and width count as one; leave one of them out")
        return self

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Every size that clips are encoded at."""
        return (Size(num_frames=self.num_frames, height=self.height, width=self.width), *self.buckets)
