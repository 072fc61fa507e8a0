"""The HTTP side: OpenAI's videos API, a health check and a page to try it. Knows no Ray: the jobs are injected."""

import json
from collections.abc import Awaitable
from email.parser import BytesParser
from email.policy import HTTP
from importlib.resources import files
from typing import Annotated, Any, Literal, Protocol

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

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

    @app.get("/v1/videos/{video_id}/content")
    async def content(video_id: str) -> Response:
        known = await _known(video_id)
        if known.status != "completed":
            raise ApiError(
                409, f"video {video_id} is {known.status} ({known.progress}%); it has no content", code=known.status
            )
        mp4 = await run_in_threadpool(read_bytes, video_path(config.out, video_id))
        headers = {"Content-Disposition": f'inline; filename="{video_id}.mp4"'}
        return Response(mp4, media_type="video/mp4", headers=headers)

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
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, f"the body is larger than {MAX_BODY_BYTES} bytes; send text fields alone")
    content_type = request.headers.get("content-type", "application/json")
    if content_type.startswith("multipart/form-data"):
        return _form(content_type, bytes(body))
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ApiError(400, 'the body must be a JSON object such as {"prompt": "a red ball rolls left"}')
    return fields


def _form(content_type: str, body: bytes) -> dict[str, Any]:
    message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    fields: dict[str, Any] = {}
    for part in message.iter_parts():
        name = str(part.get_param("name", "", header="content-disposition"))
        if part.get_filename():
            raise ApiError(400, f"{name} is a file; this server makes videos from text alone", param=name)
        payload = part.get_payload(decode=True)
        fields[name] = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""
    return fields


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
