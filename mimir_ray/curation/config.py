"""What `mimir curate` can be told: thresholds of appendix A, and definitions where the paper is silent."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from mimir_ray.config import Config
from mimir_ray.curation.models.config import (
    AestheticConfig,
    AgreementConfig,
    RecaptionConfig,
    TextAreaConfig,
    WatermarkConfig,
)
from mimir_ray.dataflow import ActorPool
from mimir_ray.records import CaptionKind
from mimir_ray.vllm import VllmPool

__all__ = [
    "AestheticConfig",
    "AgreementConfig",
    "BasicRules",
    "CaptionRules",
    "CurationConfig",
    "Export",
    "Farneback",
    "Limits",
    "LookRules",
    "Measures",
    "Pools",
    "QualityRules",
    "RecaptionConfig",
    "Split",
    "TextAreaConfig",
    "WatermarkConfig",
]


class Limits(Config):
    """What is not even tried: a file beyond these is quarantined, so that one monster cannot hold up a cluster."""

    max_file_bytes: int = Field(64 << 30, ge=1)
    """The size of a file."""
    max_pixels: int = Field(8192 * 4352, ge=1)
    """Width times height of a frame; the default is a little above 8K."""
    max_duration_s: float = Field(6 * 3600.0, gt=0)
    """The length of a whole video."""
    max_frames: int = Field(2_000_000, ge=1)
    """The most frames of a whole video; every one has a time stamp in memory."""
    seconds_per_second: float = Field(20.0, gt=0)
    """Wall time that looking at a video may take for each second of it, on top of a minute."""


class Split(Config):
    """How a video is cut into single shots."""

    detector: Literal["content", "adaptive"] = "adaptive"
    """PySceneDetect's: `content` compares neighbours; `adaptive` also looks at the frames around, and so bears moving
    cameras and sees cuts of which only a part of the frame tells."""
    threshold: float = Field(3.0, gt=0)
    """The detector's threshold: 3 suits `adaptive`, 27 suits `content`."""
    min_clip_s: float = Field(1.0, gt=0)
    """A shorter shot becomes no clip; the paper asks for 1 s at least."""
    max_clip_s: float = Field(20.0, gt=0)
    """A longer shot is cut into clips of this length, the last of which keeps the rest."""
    stride_s: float = Field(20.0, gt=0)
    """From the start of a clip to the start of the next one in a long shot; below `max_clip_s` they overlap."""

    @model_validator(mode="after")
    def _lengths_in_order(self) -> "Split":
        if self.min_clip_s > self.max_clip_s:
            raise ValueError(f"min_clip_s {self.min_clip_s} is above max_clip_s {self.max_clip_s}; swap them")
        return self


class BasicRules(Config):
    """Basic filtration: facts of the file, and motion."""

    min_frames: int = Field(65, ge=1)
    """Fewest frames of a clip."""
    min_duration_s: float = Field(1.0, ge=0)
    """Shortest clip."""
    min_aspect: float = Field(1.0, gt=0)
    """Width over height, as displayed."""
    max_aspect: float = Field(2.0, gt=0)
    """Width over height, as displayed."""
    allow_hdr: bool = True
    """PQ and HLG, which are mapped to SDR."""
    allow_interlaced: bool = True
    """Material that is deinterlaced."""
    allow_anamorphic: bool = True
    """Pixels that are not square: the frame is stretched to the shape that is shown."""
    allow_rotated: bool = True
    """Frames that are stored turned or mirrored, and are set upright."""
    motion_epsilon: float = Field(1e-4, ge=0)
    """The paper excludes a motion score of 0. An encoder's noise moves a still picture a little: scores up to this
    share of the frame's diagonal, per step of `Measures.motion_fps`, count as 0."""

    @model_validator(mode="after")
    def _aspects_in_order(self) -> "BasicRules":
        if self.min_aspect > self.max_aspect:
            raise ValueError(f"min_aspect {self.min_aspect} is above max_aspect {self.max_aspect}; swap them")
        return self


class QualityRules(Config):
    """Quality filtration: shares and means from 0 to 1."""

    max_black_area: float = Field(0.8, ge=0, le=1)
    """Mean share of a frame's pixels that are black."""
    min_brightness: float = Field(0.2, ge=0, le=1)
    """Mean grey value of the frames."""
    max_black_frame_rate: float = Field(0.4, ge=0, le=1)
    """Share of the frames that are black."""


class LookRules(Config):
    """Aesthetic and watermark filtration; each counts where its stage runs."""

    min_aesthetic: float = Field(4.0, ge=0, le=10)
    """Mean over the frames looked at, from 1 to 10."""
    max_text_area: float = Field(0.1, ge=0, le=1)
    """Share of a frame that text covers: the median over the frames looked at."""
    max_watermark_margin: float = 0.0
    """log p(yes) - log p(no) of the model's answer; above 0 it says that there is a watermark."""


PATTERNS: tuple[tuple[str, str], ...] = (
    # A rule's name, and what breaks it: a regular expression that is found in the caption, whatever the case.
    ("empty", r"\A\s*\Z"),
    ("not_text", r"[\ufffd\ud800-\udfff]"),  # decoded from bytes that were not UTF-8
    ("control_characters", r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
    ("chat_marks", r"<\|\w+\|>|</?s>|\[/?INST\]|\A\s*(?:user|assistant|system)\s*:"),
    ("refusal", r"\bI(?:['’]m| am) (?:sorry|unable|not able)\b|\bI (?:can(?:['’]t|not| not)|apologi[sz]e)\b"),
    ("refusal", r"\bas an? (?:AI|artificial intelligence|(?:large )?language model)\b"),
    (
        "about_the_picture",
        r"\b(?:the|this|these|an?) (?:images?|pictures?|photos?|photographs?|screenshots?)"
        r" (?:shows?|depicts?|features?|displays?|presents?|captures?|contains?|is|are)\b",
    ),
    ("about_the_picture", r"\b(?:in|from) (?:the|this|these|each) (?:images?|pictures?|photos?|frames?)\b"),
    ("about_the_picture", r"\b(?:first|second|third|next|last|final) (?:image|frame)s?\b"),
    ("echo_of_the_prompt", r"\bdescribe the video\b|\bin one paragraph\b"),
    ("web_address", r"https?://|\bwww\."),
    ("cut_off", r"[^\s.!?…\"'”’)\]。！？]\s*\Z"),
)


class CaptionRules(Config):
    """Caption filtration: limits of appendix A on repetition and agreement, and rules written by people."""

    kinds: tuple[CaptionKind, ...] = ("long",)
    """Captions that are judged; the others pass. A clip all of whose judged captions fall short is rejected."""

    max_repeated_2grams: float = Field(0.056, ge=0, le=1)
    """Share of the 2-grams that occur more than once, as `repeated_share` counts it."""
    max_repeated_5grams: float = Field(0.047, ge=0, le=1)
    """The same of 5-grams."""
    max_repeated_10grams: float = Field(0.045, ge=0, le=1)
    """The same of 10-grams."""
    min_clip_score: float = Field(0.25, ge=-1, le=1)
    """Cosine of caption and frames."""
    min_words: int = Field(5, ge=0)
    """Fewest words of a caption."""
    patterns: tuple[tuple[str, str], ...] = PATTERNS
    """(name, regular expression); a caption in which one is found, in upper or lower case, is excluded. Given, they
    replace the table."""

    @field_validator("patterns")
    @classmethod
    def _compiles(cls, patterns: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for name, pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name}: {pattern!r} is no regular expression: {error}; mend it") from None
        return patterns


class Farneback(Config):
    """Parameters of `cv2.calcOpticalFlowFarneback`, in its order."""

    pyr_scale: float = Field(0.5, gt=0, lt=1)
    """Size of a level of the pyramid, relative to the one below."""
    levels: int = Field(3, ge=1)
    """Levels of the pyramid, the frame itself among them."""
    winsize: int = Field(15, ge=3)
    """Side of the window that flow is averaged over, in pixels."""
    iterations: int = Field(3, ge=1)
    """Iterations at each level."""
    poly_n: int = Field(5, ge=3)
    """Side of the neighbourhood that a polynomial is fitted to, in pixels."""
    poly_sigma: float = Field(1.2, gt=0)
    """Standard deviation of the Gaussian weights of that fit, in pixels."""


class Measures(Config):
    """How the scores are measured. Frames are grey (the video's luma, 0 to 255), shrunk where they are large."""

    short_side_px: int = Field(256, ge=16)
    """Frames with a longer short side are shrunk to it. Smaller ones stay: the scores are relative to the frame."""
    quality_frames: int = Field(65, ge=1)
    """Black area, brightness and black-frame rate look at this many frames at most, spread evenly over the clip."""
    motion_fps: float = Field(2.0, gt=0)
    """Optical flow runs between frames this far apart."""
    motion_pairs: int = Field(64, ge=1)
    """At most this many pairs of frames count, spread evenly over the clip."""
    farneback: Farneback = Farneback()
    black_level: int = Field(32, ge=1, le=255)
    """A pixel whose grey value (0 to 255) is below this is black."""
    black_frame_area: float = Field(0.98, gt=0, le=1)
    """A frame with at least this share of black pixels is a black frame."""


class Pools(Config):
    """The actors of the stages that have a model. Clips are few for each that they take, and models are large: a GPU
    holds one copy, and pools are sized by how long their stage takes for a clip."""

    aesthetic: ActorPool = ActorPool(batch=1)
    text_area: ActorPool = ActorPool(num_cpus=1.0, batch=1)
    watermark: ActorPool = ActorPool(batch=4)
    recaption: ActorPool = ActorPool(batch=4)
    agreement: ActorPool = ActorPool(batch=1)
    watermark_vllm: VllmPool = VllmPool()
    """The pool in place of `watermark` where the stage's engine is vllm."""
    recaption_vllm: VllmPool = VllmPool()
    """The pool in place of `recaption` where the stage's engine is vllm."""


class Export(Config):
    """How `mimir curate --export` makes clips into files."""

    mode: Literal["either", "reencode"] = "either"
    """`either` copies the packets of a clip where they hold exactly its frames, and encodes it anew elsewhere;
    `reencode` always does, so that every file is H.264 in SDR, upright and with square pixels."""
    crf: int = Field(18, ge=0, le=51)
    """The rate factor of x264, where it encodes: lower is better and larger."""


class CurationConfig(Config):
    """From files to clips: what is measured, which clips are kept, and how the work is cut up.

    A stage that needs a model runs where its configuration names one; `off` says that it must not, and the manifest
    keeps that. Clips that fall short of a rule by their scores so far do not get there.
    """

    limits: Limits = Limits()
    split: Split | Literal["off"] = Split()
    """`off` takes every video as one clip, where it lies."""
    measures: Measures = Measures()
    basic: BasicRules = BasicRules()
    quality: QualityRules = QualityRules()
    aesthetic: AestheticConfig | Literal["off"] = "off"
    text_area: TextAreaConfig | Literal["off"] = "off"
    watermark: WatermarkConfig | Literal["off"] = "off"
    look: LookRules = LookRules()
    recaption: RecaptionConfig | Literal["off"] = "off"
    agreement: AgreementConfig | Literal["off"] = "off"
    captions: CaptionRules | Literal["off"] = "off"
    export: Export = Export()
    pools: Pools = Pools()
    decode_timeout_s: float = Field(60.0, gt=0)
    """Wall time without a frame, or over the frames of one clip, after which a decoder is ended; a clip that begins
    late in its video has more, by `limits.seconds_per_second`."""
    files_per_shard: int = Field(32, ge=1)
    """Files in a unit of work, about: what a killed run does again at most, once per core."""
    cpus_per_task: float = Field(1.0, gt=0)
    """Decoding and optical flow run on one thread each, one after the other."""
    max_retries: int = Field(2, ge=0)
    """How often a shard is tried again after its worker died. Ray's own default is for ever."""

    @model_validator(mode="after")
    def _clips_hold_a_step(self) -> "CurationConfig":
        step_s = 1 / self.measures.motion_fps
        if self.split != "off" and self.split.max_clip_s <= step_s:
            raise ValueError(
                f"split.max_clip_s {self.split.max_clip_s:g} is not above {step_s:g} s, the step between the frames "
                f"that motion is measured on (1 / measures.motion_fps): raise one of the two"
            )
        return self
