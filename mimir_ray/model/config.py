"""Configuration of the model: which base, which LLM, how their tokens are fused. Needs no torch."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from mimir_ray.config import Config

SEMANTIC_TOKENS = 4
"""Number of instruction tokens, learnable tokens and semantic tokens (section 2.3)."""


class FuserConfig(Config):
    """The token fuser's switches (section 2.3, Table 3) and what the paper leaves open."""

    decoder: bool = True
    """Add the LLM branch. Off: the baseline, which sees T5 tokens only."""
    norm: bool = True
    """Normalise the LLM tokens and give them a small learnable scale and bias."""
    zero_conv: bool = True
    """Zero-initialised 1x1 convolutions after both branches, so that a fresh fuser changes nothing."""
    stabilizer: bool = True
    """Semantic stabilizer: four instruction tokens plus four learnable tokens."""
    stabilizer_join: Literal["concat", "residual"] = "concat"
    """``concat`` appends the four semantic tokens (the paper); ``residual`` adds them to the last four text tokens
    through a zero-conv of their own, which keeps the sequence length and leaves a fresh model unchanged."""
    scale_init: float = Field(0.01, gt=0)
    """Initial per-channel scale of the normalised LLM tokens; it decides how fast that branch learns."""
    stabilizer_scale_init: float = Field(1.0, gt=0)
    """Initial per-channel scale of the normalised instruction tokens."""
    alpha: float = 1.0
    """Weight of the LLM branch in the sum e = e_theta + alpha * e_beta."""
    learn_alpha: bool = False
    """Learn that weight with the rest."""
    text_length: int | None = Field(None, gt=SEMANTIC_TOKENS)
    """Number n of text tokens before the semantic ones; None takes the base model's ``max_text_seq_length``."""
    null_condition: Literal["zeros", "empty_prompt"] = "zeros"
    """What stands for no text, in training and sampling alike. ``zeros``: what CogVideoX was trained with, and Mimir.
    ``empty_prompt``: T5's tokens of the empty prompt, which diffusers guides CogVideoX away from; so does the baseline.
    """
    projection_seed: int = 0
    """Seed of the fixed projection that stands in for the zero-conv when it is off and the widths differ."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        idle = [name for name in ("norm", "stabilizer") if getattr(self, name)]
        if not self.decoder and idle:
            raise ValueError(
                f"{' and '.join(idle)} need decoder=true (they act on the LLM's tokens); set them to false"
            )
        if self.zero_conv and self.alpha == 0:
            raise ValueError(
                "alpha=0 with zero_conv=true would keep every gradient of the LLM branch at zero; set alpha=1"
            )
        return self

    @classmethod
    def baseline(cls) -> Self:
        """No fuser at all: the base model with T5 tokens, as diffusers runs it, the first row of Table 3."""
        return cls(decoder=False, norm=False, zero_conv=False, stabilizer=False, null_condition="empty_prompt")


class LanguageConfig(Config):
    """What the LLM is asked and how its answers become tokens."""

    question: str = "{prompt}"
    """The user's turn; ``{prompt}`` stands for the video's prompt."""
    instructions: tuple[str, ...] = Field(
        (
            "Describe the objects in the video: {prompt}",
            "Describe the colours of the objects in the video: {prompt}",
            "Describe the motion in the video, in order of time: {prompt}",
            "Describe the spatial relations between the objects in the video: {prompt}",
        ),
        min_length=SEMANTIC_TOKENS,
        max_length=SEMANTIC_TOKENS,
    )
    """Four attribute-specific instructions whose answers become the instruction tokens e_i."""
    instruction_scope: Literal["prompt", "global"] = "prompt"
    """``prompt`` fills each instruction with the prompt; ``global`` leaves it out (Algorithm 1 read literally), so that
    every prompt gets the same four tokens."""
    instruction_pooling: Literal["mean", "last"] = "mean"
    """How the states of an instruction's answer become one token."""
    max_new_tokens: int = Field(160, gt=0)
    """Longest answer, its end token included."""
    temperature: float = Field(1.0, ge=0)
    """0 answers greedily; above, answers are sampled."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw from the likeliest tokens that hold this much of the probability together."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        asked = (self.question, *(self.instructions if self.instruction_scope == "prompt" else ()))
        for text in asked:
            if "{prompt}" not in text:
                raise ValueError(f"{text!r} does not contain {{prompt}}, so the prompt would be lost; add {{prompt}}")
        return self


class ModelConfig(Config):
    """Which checkpoints make the model; everything else is read from them."""

    base: str
    """A CogVideoX checkpoint: a directory or a hub id such as ``zai-org/CogVideoX-5b``."""
    llm: str | None = None
    """A decoder-only language model: a directory or a hub id; None runs the base alone."""
    revision: str | None = None
    """Branch, tag or commit of the base on the hub."""
    llm_revision: str | None = None
    """Branch, tag or commit of the language model on the hub."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number format in which encoders compute, and of the exported model."""
    fuser: FuserConfig = FuserConfig()
    language: LanguageConfig = LanguageConfig()

    def located(self) -> Self:
        """The same model with checkpoint directories as absolute paths: a worker's working directory is its own."""
        paths = {"base": self.base, "llm": self.llm}
        return self.model_copy(
            update={name: str(Path(path).resolve()) for name, path in paths.items() if path and Path(path).is_dir()}
        )
