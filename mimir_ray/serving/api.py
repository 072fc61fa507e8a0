"""The HTTP side: OpenAI's videos API, a health check and a page to try it. Knows no Ray: the jobs are injected."""

import json
import os
from collections.abc import Awaitable, Iterator
from importlib.resources import files
from tempfile import NamedTemporaryFile
from typing import Annotated, Any, Literal, Protocol

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from mimir_ray.records import GenerationRequest
from mimir_ray.serving.config import ServingConfig
from mimir_ray.serving.deployments import video_path
from mimir_ray.serving.jobs import QueueFull
from mimir_ray.serving.schemas import ApiError, Video, VideoCreate, VideoDeleted, VideoList
from mimir_ray.storage import read_bytes

MAX_BODY_BYTES = 1 << 20


class Jobs(Protocol):
    """What the API asks for; ``video_jobs.VideoJobs`` answers."""

    def create(self, request: GenerationRequest) -> Awaitable[Video | QueueFull]: ...

    def get(self, job_id: str) -> Awaitable[Video | None]: ...

    def page(self, after: str | None, limit: int, order: Literal["asc", "desc"]) -> Awaitable[VideoList | None]: ...

    def delete(self, job_id: str) -> Awaitable[bool]: ...

    def counts(self) -> Awaitable[dict[str, int]]: ...


def create_api(jobs: Jobs, config: ServingConfig, model: str) -> FastAPI:
    """The application of one ingress replica, which keeps no state of its own."""
    app = FastAPI(title="mimir_ray videos", docs_url=None, redoc_url=None)  # the stock pages load assets from a CDN
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_bad_query)
    page = files("mimir_ray.serving").joinpath("page.html").read_text("utf-8")

    @app.post("/v1/videos")
    async def create(request: Request) -> Video:
        wanted = _validated(await _fields(request)).request(config, model)
        created = await jobs.create(wanted)
        if isinstance(created, QueueFull):
            raise ApiError(
                429,
                f"{created.unfinished} videos are unfinished, as many as this server takes; "
                f"ask again in {created.retry_after_s} s",
                code="queue_full",
                retry_after_s=created.retry_after_s,
            )
        return created

    @app.get("/v1/videos")
    async def videos(
        after: str | None = None,
        limit: Annotated[int, Query(ge=0, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        listed = await jobs.page(after, limit, order)
        if listed is None:
            raise ApiError(400, f"after is {after!r}, which is no video here", param="after")
        return listed

    @app.get("/v1/videos/{video_id}")
    async def video(video_id: str) -> Video:
        return await _known(video_id)

    async def made(video_id: str, variant: str = "video") -> str:
        """Where the mp4 of a finished video is."""
        if variant != "video":
            message = f"variant is {variant!r}; this server has the video alone: leave variant out"
            raise ApiError(400, message, param="variant")
        known = await _known(video_id)
        if known.status != "completed":
            raise ApiError(
                409, f"video {video_id} is {known.status} ({known.progress}%); it has no content", code=known.status
            )
        return video_path(config.out, video_id)

    def on_disk(mp4: Annotated[str, Depends(made)]) -> Iterator[str]:
        """The file itself, or a copy of what an object store holds for as long as it is being sent."""
        if os.path.isfile(mp4):
            yield mp4
            return
        with NamedTemporaryFile(suffix=".mp4") as copy:
            try:
                copy.write(read_bytes(mp4))
            except FileNotFoundError:
                raise ApiError(404, "the file of this video is gone; make the video again", code="not_found") from None
            copy.flush()
            yield copy.name

    @app.head("/v1/videos/{video_id}/content")
    @app.get("/v1/videos/{video_id}/content")
    async def content(video_id: str, path: Annotated[str, Depends(on_disk)]) -> FileResponse:
        return FileResponse(
            path,
            media_type="video/mp4",
            filename=f"{video_id}.mp4",
            content_disposition_type="inline",
            headers={"ETag": f'"{video_id}"'},  # what an id names is written once, and its copies are as good as it
        )

    @app.delete("/v1/videos/{video_id}")
    async def delete(video_id: str) -> VideoDeleted:
        if not await jobs.delete(video_id):
            raise _unknown(video_id)
        return VideoDeleted(id=video_id)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": model, **await jobs.counts()}

    @app.get("/", response_class=HTMLResponse)
    async def index() -> str:
        return page

    async def _known(video_id: str) -> Video:
        known = await jobs.get(video_id)
        if known is None:
            raise _unknown(video_id)
        return known

    return app


async def _fields(request: Request) -> dict[str, Any]:
    """The body's fields, from JSON or a multipart form."""
    request = _limited(request)
    body = await request.body()
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await _form(request)
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ApiError(400, 'the body must be a JSON object such as {"prompt": "a red ball rolls left"}')
    return fields


def _limited(request: Request) -> Request:
    """The same request, for readers of no more than ``MAX_BODY_BYTES``."""
    size_bytes = 0

    async def receive() -> Message:
        nonlocal size_bytes
        message = await request.receive()
        size_bytes += len(message.get("body", b""))
        if size_bytes > MAX_BODY_BYTES:
            raise ApiError(413, f"the body is larger than {MAX_BODY_BYTES} bytes; send text fields alone")
        return message

    return Request(request.scope, receive)


async def _form(request: Request) -> dict[str, Any]:
    """The fields of a multipart form, the last of those with one name."""
    async with request.form() as form:
        _, options = parse_options_header(request.headers["content-type"])
        if b"--%s--" % options[b"boundary"] not in await request.body():  # the parser drops the field that was cut off
            raise ApiError(400, "the form ends before its closing boundary; send it whole")
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                raise ApiError(400, f"{name} is a file; this server makes videos from text alone", param=name)
        return dict(form)


def _validated(fields: dict[str, Any]) -> VideoCreate:
    try:
        return VideoCreate.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            message = f"there is no field {name}; the fields are {', '.join(VideoCreate.model_fields)}"
        elif first["type"] == "missing":
            message = f"{name} is required"
        else:
            message = f"{name} is {first['input']!r}: {first['msg']}"
        raise ApiError(400, message, param=name) from None


def _unknown(video_id: str) -> ApiError:
    return ApiError(404, f"there is no video {video_id!r} here; GET /v1/videos lists what there is", code="not_found")


async def _answer_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else None
    return JSONResponse(error.body(), error.status, headers)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(ApiError(error.status_code, message).body(), error.status_code)


async def _answer_bad_query(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return JSONResponse(ApiError(400, f"{name}: {first['msg']}", param=name).body(), 400)
