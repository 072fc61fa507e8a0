"""What the scorers with a model can be told. Imports neither torch nor transformers."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from mimir_ray.config import Config, UserError

_CLIP = "openai/clip-vit-large-patch14"
_QWEN2_VL = "Qwen/Qwen2-VL-7B-Instruct"
"""The paper re-captions with CogVLM2, which is code of its own on the hub; this is the model of its watermark step."""
LIKELIEST_TOKENS = 100
"""First tokens whose probability an engine is to tell: spellings of yes and no are among them, or hardly matter."""


class Checkpoint(Config):
    """A transformers model by directory or hub id, and how it computes."""

    name: str
    """A directory or a hub id."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of weights and activations."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` is a GPU where this process sees one."""


class AestheticConfig(Config):
    """The LAION aesthetic predictor: a head on the image features of CLIP ViT-L/14."""

    clip: Checkpoint = Checkpoint(name=_CLIP)
    head: str
    """The published `sac+logos+ava1-l14-linearMSE.pth` or a .safetensors file with its keys: a path, or
    owner/repository/file on the hub."""
    head_revision: str | None = None
    """Branch, tag or commit of the head's repository on the hub."""
    frames: int = Field(4, ge=1)
    """Frames of a clip to score, spread evenly."""


class TextAreaConfig(Config):
    """Detection of text, on the CPU."""

    frames: int = Field(4, ge=1)
    """Frames of a clip to score, spread evenly."""
    short_side_px: int = Field(480, ge=32)
    """Frames with a shorter side are enlarged to this for the detector. Small text needs it, time grows with its
    square, and much enlarged pictures have areas that look like text to it."""
    min_confidence: float = Field(0.7, gt=0, le=1)
    """Boxes that the detector is less sure of do not count: of real clips without text, at 480 px none is as sure."""
    cpu_threads: int = Field(1, ge=1)
    """Threads of the detector."""


class AgreementConfig(Config):
    """CLIP score between a clip and its caption."""

    clip: Checkpoint = Checkpoint(name=_CLIP)
    frames: int = Field(4, ge=1)
    """Frames of a clip to score, spread evenly."""


class _Asked(Config):
    """A vision-language model, and what runs it."""

    vlm: Checkpoint = Checkpoint(name=_QWEN2_VL, dtype="bfloat16")
    engine: Literal["transformers", "vllm"] = "transformers"
    """``transformers`` runs on any machine; ``vllm`` answers many clips at once on GPUs, and needs the extra `vllm`."""

    @model_validator(mode="after")
    def _vllm_has_a_gpu(self) -> Self:
        if self.engine == "vllm" and self.vlm.device == "cpu":
            raise ValueError("engine vllm computes on GPUs, and vlm.device is cpu: set device=auto or another engine")
        return self


class WatermarkConfig(_Asked):
    """A question to a vision-language model, answered with yes or no."""

    frames: int = Field(4, ge=1)
    """Frames of a clip to look at, spread evenly."""
    question: str = (
        "These are frames of one video. Is there a watermark in them, such as a logo, a channel mark or a web address "
        "laid over the picture? Answer with Yes or No only."
    )
    """What the model is asked."""


class RecaptionConfig(_Asked):
    """A description by a vision-language model."""

    frames: int = Field(8, ge=1)
    """Frames of a clip to look at, spread evenly."""
    prompt: str = (
        "These are {frames} frames of one video, evenly spaced and in order. Describe the video in one paragraph: the "
        "subjects and what they do in order, their number, colours and places, the background, the light and the "
        "camera. Write what is visible only, and never mention frames or images."
    )
    """``{frames}`` becomes the number of frames."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest description, in tokens."""
    temperature: float = Field(0.0, ge=0)
    """0 takes the likeliest token always; above, tokens are drawn, from the clip's own seed."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Draw from the likeliest tokens that hold this much of the probability together."""


def require_models(config: Config, section: str = "") -> None:
    """Raise UserError for the first model in `config` that is named by a path and is not there.

    It asks the machine that it runs on; on a cluster such a path must be on storage that all nodes share.
    """
    for field in type(config).model_fields:
        value = getattr(config, field)
        if isinstance(value, Config):
            require_models(value, f"{section}{field}.")
        names_model = field == "head" or (field == "name" and isinstance(config, Checkpoint))
        if names_model and value.startswith(("/", ".", "~")) and not Path(value).expanduser().exists():
            raise UserError(f"{section}{field}: there is no model at {value}: name a directory, a file or a hub id")
