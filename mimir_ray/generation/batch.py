"""Batch generation on Ray Data: a prompt list becomes mp4 files and a ``generations`` table.

    encode actors -> denoise actors -> decode-and-write actors

One row is one video from end to end; conditions and latents (a few MB) cross the operators, frames never do. Every
video commits on its own, mp4 first and then its row, so a killed run continues with what is missing.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mimir_ray.config import Config
from mimir_ray.console import time_left
from mimir_ray.dataflow import map_actors, run
from mimir_ray.generation.actors import DecodeActor, DenoiseActor, EncodeActor, generation_row
from mimir_ray.generation.config import GenerationConfig, StageActors
from mimir_ray.generation.index import forget_index, write_index
from mimir_ray.generation.naming import located, name_of_runnable
from mimir_ray.generation.prompts import BadLine, PromptList
from mimir_ray.records import GenerationRequest
from mimir_ray.room import find_room, room
from mimir_ray.storage import Manifest, Table, absolute, ahead, join

if TYPE_CHECKING:
    from ray.data import Dataset

logger = logging.getLogger(__name__)


class _Identity(Config):
    """What every video of one table shares; the requests themselves are in its rows."""

    model: str
    dtype: str
    """``RuntimeConfig.arithmetic``."""


@dataclass(frozen=True)
class Progress:
    """How far a batch is."""

    done: int
    total: int
    quarantined: int
    videos_per_s: float
    left_s: float


def generate_batch(
    prompts: PromptList | Sequence[GenerationRequest],
    checkpoint: str,
    out: str,
    config: GenerationConfig,
    *,
    overwrite: bool = False,
    retry_quarantined: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Manifest:
    """Generate every request that has no row yet; needs an initialised Ray.

    Videos are ``out/videos/<request_id>.mp4``, their records the table ``out/generations``, and ``out/index.jsonl``
    says what became of each line. The table keeps the videos of earlier prompt lists; the manifest counts it whole.

    Args:
        overwrite: discard what another model or number format left there.
        retry_quarantined: try again what failed before.

    Raises:
        UserError: no checkpoint, one that cannot be run, a table of another model or dtype, or a cluster without room
            for the actors.
    """
    listed = prompts if isinstance(prompts, PromptList) else PromptList(list(enumerate(prompts, 1)))
    if overwrite:
        find_room("generation", config.needs())  # before anything is discarded
    table = Table(join(absolute(out), "generations"))
    model = name_of_runnable(checkpoint, config.runtime.lora)
    table.begin(_Identity(model=model, dtype=config.runtime.arithmetic), overwrite=overwrite)
    forget_index(table)
    requests = {request.request_id: request for request in listed.requests}
    bad = {line.request_id: line for line in listed.bad}
    _drop_failures(table, requests.keys() | bad.keys(), all_of_them=retry_quarantined)
    for _ in ahead(lambda shard: table.commit(shard, _bad_line_row(shard, bad[shard])), table.pending(bad)):
        pass
    pending = table.pending(requests)
    skipped = len(requests) - len(pending)
    logger.info("%d videos to make, %d are there, %d bad lines", len(pending), skipped, len(bad))
    if pending:
        videos = join(absolute(out), "videos")
        dataset = _pipeline([requests[shard] for shard in pending], checkpoint, table.uri, videos, config)
        with room("generation", config.needs()):
            _watch(dataset, len(pending), on_progress)
    for shard in table.pending(requests):
        reason = (
            "the worker process died twice over this request (see its log); shrink the video or give it more memory"
        )
        table.commit(shard, generation_row(requests[shard], status="quarantined", reason=reason))
    write_index(table, [(line, meant.request_id) for line, meant in listed.lines])
    return table.finish(inputs=len(requests.keys() | bad.keys() | set(table.shards())))


def _pipeline(
    requests: Sequence[GenerationRequest], checkpoint: str, table: str, videos: str, config: GenerationConfig
) -> "Dataset":
    import ray

    rows = [{"request": request.model_dump_json()} for request in requests]
    # One block a row, so that a video starts its next stage as soon as it is ready and a crash costs one video.
    dataset: Dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    dataset.context.max_errored_blocks = -1  # what was lost is found missing from the table, and quarantined
    loaded = {"checkpoint": checkpoint, "runtime": located(config.runtime)}
    written = {**loaded, "table": table, "videos": videos}
    # 1 row -> 1 row throughout. T5 and the LLM; then the transformer, where nearly all time goes; then the VAE and the
    # video encoder, which commit the video and its row.
    stages: list[tuple[type, dict[str, Any], StageActors]] = [
        (EncodeActor, loaded, config.encode),
        (DenoiseActor, loaded, config.denoise),
        (DecodeActor, written, config.decode),
    ]
    for stage, arguments, actors in stages:
        dataset = map_actors(
            dataset,
            stage.__name__,
            partial(stage, **arguments),
            actors=(actors.min_actors, actors.max_actors),
            num_cpus=actors.num_cpus,
            num_gpus=actors.num_gpus,
            max_restarts=config.worker_restarts,
            waiting=1,  # what waits inside an actor that dies would be lost with the request at fault
        )
    return dataset


def _watch(dataset: "Dataset", total: int, on_progress: Callable[[Progress], None] | None) -> None:
    began = time.monotonic()
    quarantined = 0
    for done, row in enumerate(run(dataset), 1):
        quarantined += int(row["status"] != "ok")
        rate = done / max(time.monotonic() - began, 1e-9)
        progress = Progress(done, total, quarantined, rate, (total - done) / rate)
        logger.info(
            "%d of %d videos, %d quarantined, %.2f videos/s, %s",
            *(done, total, quarantined, rate, time_left(progress.left_s)),
        )
        if on_progress is not None:
            on_progress(progress)


def _drop_failures(table: Table, expected: set[str], *, all_of_them: bool) -> None:
    """Forget failed rows that this prompt list no longer has (a mended line), or all of them."""
    candidates = table.shards() if all_of_them else sorted(set(table.shards()) - expected)
    statuses = ahead(lambda shard: table.read(shard, ["status"])["status"][0].as_py(), candidates)
    table.drop([shard for shard, status in zip(candidates, statuses, strict=True) if status != "ok"])


def _bad_line_row(shard: str, bad: BadLine) -> pa.Table:
    row = {"request_id": shard, "prompt": bad.text, "status": "quarantined", "reason": f"line {bad.line}: {bad.reason}"}
    return generation_row(None, **row)
