"""The actors of batch generation. A row is the ``request`` as JSON, and what the stages add to it.

A failure becomes the row's ``reason``, which the later stages pass on unworked.
"""

import logging
from typing import Any

import pyarrow as pa

from mimir_ray.config import UserError
from mimir_ray.dataflow import Row
from mimir_ray.generation.checkpoint import load_decode_stage, load_denoise_stage, load_encode_stage
from mimir_ray.generation.config import RuntimeConfig
from mimir_ray.generation.stages import Condition, Stopwatch
from mimir_ray.model.sampling import DenoiseState
from mimir_ray.records import SCHEMAS, GenerationRequest
from mimir_ray.storage import Table, below, join, parent, write_bytes
from mimir_ray.video import encode_mp4

logger = logging.getLogger(__name__)


class EncodeActor:
    """request -> condition, encode_s, reason."""

    def __init__(self, checkpoint: str, runtime: RuntimeConfig) -> None:
        self._stage = load_encode_stage(checkpoint, runtime)

    def __call__(self, row: Row) -> Row:
        watch, condition, reason = Stopwatch(), b"", ""
        try:
            condition = self._stage.encode(_request(row)).to_bytes()
        except Exception as error:
            reason = _reason("encoding the prompt", error)
        return {"request": row["request"], "condition": condition, "encode_s": watch.lap(), "reason": reason}


class DenoiseActor:
    """condition -> latents (a finished DenoiseState), denoise_s."""

    def __init__(self, checkpoint: str, runtime: RuntimeConfig) -> None:
        self._stage = load_denoise_stage(checkpoint, runtime)

    def __call__(self, row: Row) -> Row:
        watch, latents, reason = Stopwatch(), b"", row["reason"]
        if not reason:
            try:
                condition = Condition.from_bytes(row["condition"])
                state = self._stage.start(_request(row), condition)
                while not state.finished:
                    state = self._stage.step(state, condition)
                latents = state.to("cpu").to_bytes()
            except Exception as error:
                reason = _reason("denoising", error)
        passed_on = {"request": row["request"], "encode_s": row["encode_s"]}
        return {**passed_on, "latents": latents, "denoise_s": watch.lap(), "reason": reason}


class DecodeActor:
    """latents -> an mp4 and a committed row; what goes on is only the id and the status."""

    def __init__(self, checkpoint: str, runtime: RuntimeConfig, table: str, videos: str) -> None:
        self._stage = load_decode_stage(checkpoint, runtime)
        self._table = Table(table)
        self._videos = videos

    def __call__(self, row: Row) -> Row:
        watch, request, reason = Stopwatch(), _request(row), row["reason"]
        path = join(self._videos, f"{request.request_id}.mp4")
        if not reason:
            try:
                frames = self._stage.decode(DenoiseState.from_bytes(row["latents"]).latents)
                write_bytes(path, encode_mp4(frames, request.fps))
            except Exception as error:
                reason = _reason("decoding and writing the video", error)
        columns = {
            "path": None if reason else below(parent(self._table.uri)[0], path),
            "encode_s": row["encode_s"],
            "denoise_s": row["denoise_s"],
            "decode_s": watch.lap(),
            "status": "quarantined" if reason else "ok",
            "reason": reason,
        }
        self._table.commit(request.request_id, generation_row(request, **columns))
        return {"request_id": request.request_id, "status": columns["status"]}


def generation_row(request: GenerationRequest | None, **columns: Any) -> pa.Table:
    """One row of the ``generations`` table: the request's fields and ``columns``; the rest is null."""
    known: dict[str, Any] = {}
    if request is not None:
        fields = request.model_dump()
        known = {**fields, "request_id": request.request_id}
        known |= {"height_px": fields["height"], "width_px": fields["width"]}
    known |= columns
    schema = SCHEMAS["generations"]
    return pa.Table.from_pylist([{name: known.get(name) for name in schema.names}], schema=schema)


def _request(row: Row) -> GenerationRequest:
    return GenerationRequest.model_validate_json(row["request"])


def _reason(doing: str, error: Exception) -> str:
    logger.warning("%s failed", doing, exc_info=error)
    return f"{doing}: {error}" if isinstance(error, UserError) else f"{doing}: {type(error).__name__}: {error}"
