"""The videos API as it is spoken: OpenAI's objects and what ours have more (seed, queue_position, eta_s ...)."""

import math
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mimir_ray.config import UserError, from_dict
from mimir_ray.records import GenerationRequest
from mimir_ray.serving.config import ServingConfig

VideoStatus = Literal["queued", "in_progress", "completed", "failed"]
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_STRIDE = 8
"""A video of the CogVideoX VAE has 8k + 1 frames."""


class ApiError(Exception):
    """An answer other than 2xx, in OpenAI's shape."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The JSON document of the answer."""
        kind = {400: "invalid_request_error", 404: "not_found_error", 409: "conflict_error", 429: "rate_limit_error"}
        error = {"message": str(self), "type": kind.get(self.status, "server_error")}
        return {"error": {**error, "param": self.param, "code": self.code}}


class VideoCreate(BaseModel):
    """Body of ``POST /v1/videos``: OpenAI's fields, then ours. The server's configuration fills in the rest."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1)
    model: str | None = None
    seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    size: str | None = None
    """Width x height, such as 720x480."""
    width: int | None = Field(None, ge=1)
    height: int | None = Field(None, ge=1)
    fps: float | None = Field(None, gt=0, allow_inf_nan=False)
    num_frames: int | None = Field(None, ge=1)
    num_inference_steps: int | None = Field(None, ge=1)
    guidance_scale: float | None = Field(None, ge=0, allow_inf_nan=False)
    seed: int | None = Field(None, ge=0, lt=2**63)

    def request(self, config: ServingConfig, model: str) -> GenerationRequest:
        """What is generated. Raises ApiError 400 for what does not fit together, the server or its limits."""
        if self.model not in (None, model):
            raise ApiError(400, f"model is {self.model!r}; this server has {model!r}", param="model")
        if not self.prompt.strip():
            raise ApiError(400, "prompt is blank; say in words what the video shows", param="prompt")
        fields = {**config.generation.request(self.prompt.strip(), model).model_dump(), **self._given()}
        fields |= self._size()
        if self.seconds is not None:
            if self.num_frames is not None:
                raise ApiError(400, "seconds and num_frames both say how long; give one of them", param="seconds")
            wanted = min(self.seconds * fields["fps"], config.limits.max_frames + _STRIDE)
            fields["num_frames"] = max(round((wanted - 1) / _STRIDE), 0) * _STRIDE + 1
        self._check(fields, config)
        try:
            return from_dict(GenerationRequest, fields)
        except UserError as error:
            raise ApiError(400, str(error), param=str(error).partition(" ")[0]) from None

    def _given(self) -> dict[str, Any]:
        names = ("width", "height", "fps", "num_frames", "num_inference_steps", "guidance_scale", "seed")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def _size(self) -> dict[str, int]:
        if self.size is None:
            return {}
        match = _SIZE.fullmatch(self.size)
        if match is None:
            raise ApiError(400, f"size is {self.size!r}; write width x height, such as 720x480", param="size")
        width, height = int(match[1]), int(match[2])
        if (self.width or width) != width or (self.height or height) != height:
            raise ApiError(400, f"size is {self.size}, but width or height differ from it; give one", param="size")
        return {"width": width, "height": height}

    def _check(self, fields: dict[str, Any], config: ServingConfig) -> None:
        limits = config.limits
        # What is read here without the model is what every CogVideoX shares; the rest the encoder finds.
        if (fields["num_frames"] - 1) % _STRIDE:
            below = (fields["num_frames"] - 1) // _STRIDE * _STRIDE + 1
            message = f"num_frames is {fields['num_frames']}; it must be 8k + 1: use {below} or {below + _STRIDE}"
            raise ApiError(400, message, param="num_frames")
        for name in ("width", "height"):
            if fields[name] % 16:
                below = fields[name] // 16 * 16
                choices = f"{below} or {below + 16}" if below else "16"
                raise ApiError(400, f"{name} is {fields[name]}; it must be a multiple of 16: use {choices}", param=name)
        pixels = fields["width"] * fields["height"]
        checks = (
            ("prompt", len(fields["prompt"]), limits.max_prompt_characters, "characters"),
            ("num_frames", fields["num_frames"], limits.max_frames, "frames"),
            ("size", pixels, limits.max_pixels, "pixels"),
            ("num_inference_steps", fields["num_inference_steps"], limits.max_inference_steps, "steps"),
        )
        for name, value, limit, unit in checks:
            if value > limit:
                raise ApiError(400, f"{name} asks for {value} {unit}; the limit here is {limit}: lower it", param=name)


class VideoError(BaseModel):
    """Why a video failed."""

    code: str
    message: str


class Video(BaseModel):
    """A video, wanted, in the making or made."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: VideoStatus
    progress: int = Field(ge=0, le=100)
    prompt: str
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = None
    seconds: str
    size: str
    remixed_from_video_id: None = None
    error: VideoError | None = None
    seed: int
    num_frames: int
    fps: float
    num_inference_steps: int
    guidance_scale: float
    steps_done: int = 0
    queue_position: int | None = None
    """Videos before this one, while it is queued."""
    eta_s: float | None = None
    """Seconds until it is done, once enough is known to say so."""
    stage_durations: dict[str, float] = {}
    """Seconds of encode, denoise and decode."""
    frames_sha256: str | None = None
    """Hash of the raw frames (F H W 3, uint8) before video compression: equal requests have equal ones."""


class VideoList(BaseModel):
    """Answer of ``GET /v1/videos``."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    """Answer of ``DELETE /v1/videos/{id}``."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


def seconds_text(request: GenerationRequest) -> str:
    """Length of a video as OpenAI writes it: text, with no more digits than it needs."""
    return f"{math.floor(request.num_frames / request.fps * 1000) / 1000:g}"
