"""What `mimir curate` can be told: thresholds of appendix A, and definitions where the paper is silent."""

from pydantic import Field, model_validator

from mimir_ray.config import Config


class BasicRules(Config):
    """Basic filtration: facts of the container, and motion."""

    min_frames: int = Field(65, ge=1)
    min_duration_s: float = Field(1.0, ge=0)
    min_aspect: float = Field(1.0, gt=0)
    """Width over height, as displayed."""
    max_aspect: float = Field(2.0, gt=0)
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
    min_brightness: float = Field(0.2, ge=0, le=1)
    max_black_frame_rate: float = Field(0.4, ge=0, le=1)


class Farneback(Config):
    """Parameters of `cv2.calcOpticalFlowFarneback`, in its order."""

    pyr_scale: float = Field(0.5, gt=0, lt=1)
    levels: int = Field(3, ge=1)
    winsize: int = Field(15, ge=3)
    iterations: int = Field(3, ge=1)
    poly_n: int = Field(5, ge=3)
    poly_sigma: float = Field(1.2, gt=0)


class Measures(Config):
    """How the scores are measured. Frames are grey (BT.601 luma of RGB), shrunk where they are large."""

    short_side_px: int = Field(256, ge=16)
    """Frames with a longer short side are shrunk to it. Smaller ones stay: the scores are relative to the frame."""
    quality_frames: int = Field(65, ge=1)
    """Black area, brightness and black-frame rate look at this many frames at most, spread evenly over the clip."""
    motion_fps: float = Field(2.0, gt=0)
    """Optical flow runs between frames this far apart."""
    motion_pairs: int = Field(64, ge=1)
    """At most this many pairs of frames, spread evenly over the clip, so that a long clip costs no more memory."""
    farneback: Farneback = Farneback()
    black_level: int = Field(32, ge=1, le=255)
    """A pixel whose grey value (0 to 255) is below this is black."""
    black_frame_area: float = Field(0.98, gt=0, le=1)
    """A frame with at least this share of black pixels is a black frame."""


class CurationConfig(Config):
    """From files to clips: which are kept, and how the work is cut up."""

    basic: BasicRules = BasicRules()
    quality: QualityRules = QualityRules()
    measures: Measures = Measures()
    decode_timeout_s: float = Field(60.0, gt=0)
    """Wall time that one decoder may take over one clip before it is ended."""
    files_per_shard: int = Field(32, ge=1)
    """Files in a unit of work, about: what a killed run does again at most, once per core."""
    cpus_per_task: float = Field(1.0, gt=0)
    """Decoding and optical flow run on one thread each, one after the other."""
    max_retries: int = Field(2, ge=0)
    """How often a shard is tried again after its worker died. Ray's own default is for ever."""
