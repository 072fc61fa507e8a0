"""The rows that cross rooms: schemas of the tables on disk, models of what is handed over in memory, packed arrays.

Every table ends with ``status`` and ``reason``: ``ok`` has an empty reason, ``rejected`` (processed, fell short of a
rule) and ``quarantined`` (could not be processed) always have one. The key (the first column), status and reason are
never null; the other columns may be, in rows that are not ok.

Shapes: ``T`` latent frames, ``C`` channels, ``h w`` latent pixels, ``N`` text tokens, ``L`` LLM tokens, ``D`` width.
"""

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from mimir_ray.config import Config, fingerprint

Status = Literal["ok", "rejected", "quarantined"]
STATUSES: tuple[str, ...] = get_args(Status)

CaptionKind = Literal["long", "short", "user", "filename"]
StateDtype = Literal["float16", "bfloat16", "float32"]


class GenerationRequest(Config):
    """Everything that determines a generated video, down to the pixels."""

    prompt: str = Field(min_length=1)
    seed: int = Field(0, ge=0, lt=2**63)
    num_frames: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    num_inference_steps: int = Field(ge=1)
    guidance_scale: float = Field(ge=0)
    fps: float = Field(gt=0)
    model: str = Field(min_length=1)
    """Name of the checkpoint that answers: part of the identity, so two models never share an output."""

    @property
    def request_id(self) -> str:
        """Sixteen hex characters; equal requests have equal ids, in every process."""
        return fingerprint(self)


class Prompt(Config):
    """One line of a prompt list."""

    prompt: str = Field(min_length=1)
    prompt_id: str | None = None
    seed: int | None = Field(None, ge=0, lt=2**63)


class Clip(Config):
    """A curated shot: the columns of ``clips`` that later stages read.

    It is a span of the video at ``path``, whose bytes have the id ``video_id`` and number ``size_bytes``. Frames are
    those that a viewer sees, upright and in square pixels, in the order in which they are shown.
    """

    clip_id: str
    video_id: str
    path: str
    size_bytes: int
    start_s: float
    end_s: float
    first_frame: int
    """The index of the clip's first frame in its video, counted from 0."""
    frames: int
    times_s: tuple[float, ...]
    """When each of the ``frames`` is shown, from 0 for the first one."""
    width_px: int
    height_px: int
    fps: float
    duration_s: float


def _table(key: str, *columns: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema(
        [
            pa.field(key, pa.string(), nullable=False),
            *(pa.field(name, kind) for name, kind in columns),
            pa.field("status", pa.string(), nullable=False),
            pa.field("reason", pa.string(), nullable=False),
        ]
    )


_TEXT, _INT, _FLOAT, _BOOL, _BYTES = pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.large_binary()
_INTS = pa.list_(pa.int32())
_ANSWER = pa.struct([("seed", pa.int64()), ("token_ids", _INTS), ("states", _BYTES), ("length", pa.int32())])

SCHEMAS: dict[str, pa.Schema] = {
    "videos": _table(
        "video_id",
        ("path", _TEXT),
        ("size_bytes", _INT),
        ("codec", _TEXT),
        ("stream", _INT),
        ("width_px", _INT),
        ("height_px", _INT),
        ("fps", _FLOAT),
        ("frames", _INT),
        ("duration_s", _FLOAT),
        ("rotation_deg", _INT),
        ("mirrored", _BOOL),
        ("pixel_aspect", _FLOAT),
        ("interlaced", _BOOL),
        ("transfer", _TEXT),
        ("shots", _INT),
        ("short_shots", _INT),
        ("clips", _INT),
        ("rule", _TEXT),
        ("stage", _TEXT),
        ("error", _TEXT),
    ),
    "clips": _table(
        "clip_id",
        ("video_id", _TEXT),
        ("path", _TEXT),
        ("size_bytes", _INT),
        ("start_s", _FLOAT),
        ("end_s", _FLOAT),
        ("first_frame", _INT),
        ("frames", _INT),
        ("times_s", pa.list_(_FLOAT)),
        ("width_px", _INT),
        ("height_px", _INT),
        ("fps", _FLOAT),
        ("duration_s", _FLOAT),
        ("hdr", _BOOL),
        ("interlaced", _BOOL),
        ("anamorphic", _BOOL),
        ("rotated", _BOOL),
        ("motion", _FLOAT),
        ("black_area", _FLOAT),
        ("brightness", _FLOAT),
        ("black_frame_rate", _FLOAT),
        ("aesthetic_mean", _FLOAT),
        ("aesthetic_min", _FLOAT),
        ("text_area", _FLOAT),
        ("watermark", _BOOL),
        ("watermark_margin", _FLOAT),
        ("watermark_certainty", _FLOAT),
        ("rule", _TEXT),
        ("value", _FLOAT),
        ("limit", _FLOAT),
        ("stage", _TEXT),
        ("error", _TEXT),
    ),
    "captions": _table("clip_id", ("kind", _TEXT), ("text", _TEXT), ("clip_score", _FLOAT), ("rule", _TEXT)),
    "latents": _table("clip_id", ("moments", _BYTES), ("shape", _INTS), ("dtype", _TEXT), ("frame_indices", _INTS)),
    "t5_tokens": _table(
        "clip_id",
        ("kind", _TEXT),
        ("text", _TEXT),
        ("states", _BYTES),
        ("length", _INT),
        ("width", _INT),
        ("dtype", _TEXT),
    ),
    "answers": _table(
        "clip_id",
        ("kind", _TEXT),
        ("text", _TEXT),
        ("sampled", pa.list_(pa.struct([("seed", pa.int64()), ("token_ids", _INTS)]))),
        ("instructions", pa.list_(_INTS)),
    ),
    "llm_tokens": _table(
        "clip_id",
        ("kind", _TEXT),
        ("text", _TEXT),
        ("query_states", _BYTES),
        ("query_length", _INT),
        ("answers", pa.list_(_ANSWER)),
        ("instruction_states", _BYTES),
        ("width", _INT),
        ("dtype", _TEXT),
    ),
    "generations": _table(
        "request_id",
        ("prompt", _TEXT),
        ("path", _TEXT),
        ("seed", _INT),
        ("num_frames", _INT),
        ("height_px", _INT),
        ("width_px", _INT),
        ("fps", _FLOAT),
        ("num_inference_steps", _INT),
        ("guidance_scale", _FLOAT),
        ("model", _TEXT),
        ("encode_s", _FLOAT),
        ("denoise_s", _FLOAT),
        ("decode_s", _FLOAT),
    ),
}

VERSIONS = {
    "videos": 3,
    "clips": 3,
    "captions": 2,
    "latents": 3,
    "t5_tokens": 2,
    "answers": 2,
    "llm_tokens": 2,
    "generations": 2,
}
"""The schema version of each table by itself; it grows when rows of before are no longer what the table promises: other
columns, or the same ones found out in another way. Version 3 has frames as a viewer sees them."""


def pack_array(array: npt.NDArray[Any], dtype: StateDtype) -> bytes:
    """The bytes of ``array`` in ``dtype``, row-major and little-endian; bfloat16 rounds to nearest even.

    Raises ValueError where a value is not finite in ``dtype``: a hidden state beyond 65504 must not become an infinity.
    """
    wide = np.ascontiguousarray(array, dtype="<f4")
    if dtype == "bfloat16":
        bits = wide.view("<u4")
        packed = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
        finite = bool(np.isfinite(wide).all()) and not bool(((packed & 0x7F80) == 0x7F80).any())
    else:
        with np.errstate(over="ignore"):
            packed = wide.astype("<f2" if dtype == "float16" else "<f4")
        finite = bool(np.isfinite(packed).all())
    if not finite:
        peak = float(np.abs(wide).max())
        raise ValueError(
            f"an array with largest magnitude {peak:g} is not finite in {dtype}; store it as bfloat16 or float32"
        )
    return bytes(packed.tobytes())


def unpack_array(data: bytes, dtype: StateDtype, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """What ``pack_array`` wrote, as float32 (exact for every dtype). A ``-1`` in ``shape`` is inferred.

    Raises ValueError where the number of bytes does not fit the shape.
    """
    if dtype == "bfloat16":
        wide: npt.NDArray[np.uint32] = np.left_shift(np.frombuffer(data, "<u2"), 16, dtype="<u4")
        return wide.view("<f4").reshape(shape)
    return np.frombuffer(data, "<f2" if dtype == "float16" else "<f4").astype(np.float32).reshape(shape)
