"""A small curated data root and tiny models for it."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mimir_ray.dataflow import ActorPool
from mimir_ray.model.config import LanguageConfig, ModelConfig
from mimir_ray.precompute import PrecomputeConfig, PrecomputeSummary, precompute
from mimir_ray.precompute.actors import LatentEncoder, LLMEncoder, T5Encoder
from mimir_ray.precompute.keys import table_keys
from mimir_ray.precompute.outcomes import Retry
from mimir_ray.precompute.pipeline import shard_facts
from mimir_ray.precompute.replacing import TableRun
from mimir_ray.precompute.shard_plan import PlannedShard, plan_shards
from mimir_ray.records import SCHEMAS
from mimir_ray.storage import Table, file_id
from mimir_ray.video import write_mp4
from mimir_ray.vllm import TextEngine, TextEngineConfig, vllm_engine
from tests.tiny import tiny_base, tiny_llm

CAPTIONS = ("a red ball moves left", "red ball", "a blue triangle above a green square")
CONFIG = PrecomputeConfig(
    num_frames=9,
    height=64,
    width=64,
    answers=2,
    clips_per_shard=2,
    least_psnr_db=None,  # random weights give nothing back
    latents=ActorPool(batch=3),
    llm_tokens=ActorPool(batch=4),
)


def tiny_model(folder: Path) -> ModelConfig:
    """A CogVideoX base and a Phi3."""
    language = LanguageConfig(max_new_tokens=6)
    return ModelConfig(base=str(tiny_base(folder / "base")), llm=str(tiny_llm(folder / "llm")), language=language)


def curated(root: Path, shards: int = 3, clips_per_shard: int = 3) -> Path:
    """Tables `clips` and `captions` as curation leaves them: mp4 files of 65 frames, two captions a clip.

    Each shard also has a clip that curation rejected; the first has one whose file is cut off.
    """
    videos = root / "videos"
    videos.mkdir(parents=True)
    clip_rows: dict[str, list[dict[str, Any]]] = {}
    caption_rows: dict[str, list[dict[str, Any]]] = {}
    for shard in range(shards):
        name = f"shard-{shard}"
        clip_rows[name], caption_rows[name] = [], []
        for index in range(clips_per_shard + 1):
            clip_id = f"clip-{shard}-{index}"
            path = videos / f"{clip_id}.mp4"
            write_mp4(path, moving_square(seed=10 * shard + index), fps=16.0)
            if clip_id == "clip-0-1":
                path.write_bytes(path.read_bytes()[:400])
            rejected = index == clips_per_shard
            clip_rows[name].append(clip_row(clip_id, path) | (REJECTED if rejected else OK))
            texts = (CAPTIONS[index % len(CAPTIONS)], f"{CAPTIONS[2]} {index}")
            caption_rows[name] += [
                {"clip_id": clip_id, "kind": kind, "text": text} | OK
                for kind, text in zip(("short", "long"), texts, strict=True)
            ]
    commit(root, "clips", clip_rows)
    commit(root, "captions", caption_rows)
    return root


def commit(root: Path, name: str, rows: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Write a finished table."""
    table = Table(str(root / name))
    table.begin(LanguageConfig())
    for shard, members in rows.items():
        table.commit(shard, pa.Table.from_pylist(list(members), schema=SCHEMAS[name]))
    table.finish(sum(map(len, rows.values())))


def clip_row(clip_id: str, path: Path, frames: int = 65, fps: float = 16.0) -> dict[str, Any]:
    """A row of `clips`."""
    return {
        "clip_id": clip_id,
        "video_id": file_id(path) if path.is_file() else f"video-{clip_id}",
        "path": str(path),
        "size_bytes": path.stat().st_size if path.is_file() else 0,
        "start_s": 0.0,
        "end_s": frames / fps,
        "first_frame": 0,
        "frames": frames,
        "times_s": tuple(index / fps for index in range(frames)),
        "width_px": 64,
        "height_px": 64,
        "fps": fps,
        "duration_s": frames / fps,
    }


def moving_square(seed: int, frames: int = 65, height: int = 64, width: int = 64) -> np.ndarray:
    """F H W 3 uint8: a coloured square that moves to the right."""
    generator = np.random.default_rng(seed)
    colour = generator.integers(60, 255, 3)
    video = np.full((frames, height, width, 3), 40, np.uint8)
    for index, frame in enumerate(video):
        left = 2 + index * (width - 24) // frames
        frame[20:40, left : left + 20] = colour
    return video


def alone(shard: str) -> PlannedShard:
    """A shard of curation that is neither split nor put together with others."""
    return PlannedShard(shard, (shard,), 0, 1)


def encode_here(data: Path, model: ModelConfig, config: PrecomputeConfig) -> None:
    """The tables that precompute writes, by a plain loop in this process."""
    keys, shards = table_keys(model, config), plan_shards(str(data), config.clips_per_shard)
    for encoder_class in (LatentEncoder, T5Encoder, LLMEncoder):
        encoder = encoder_class(str(data), model, config)
        table = encoder.table
        table.begin(keys[table.name])
        for planned in shards:
            encoder(planned.row() | {"predecessors": [], "retry": "passing", table.name: True})
        table.finish(len(rows_of(data, table.name)))


def precompute_whole(
    data: Path, model: ModelConfig, config: PrecomputeConfig = CONFIG, **options: Any
) -> PrecomputeSummary:
    """All of `precompute`, manifests and account included, but for Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mimir_ray.precompute.pipeline.plan", LocalPlan)
        return precompute(str(data), model, config, **options)


@dataclass(frozen=True)
class LocalPlan:
    """Stands in for `plan`: what is done to its shards, one after another."""

    data: str
    model: ModelConfig
    config: PrecomputeConfig
    shards: Sequence[PlannedShard]
    pending: Mapping[str, Sequence[str]]
    predecessors: Mapping[str, Sequence[str]]
    retry: Retry
    runs: Mapping[str, TableRun]
    engine: Callable[[TextEngineConfig], TextEngine] = vllm_engine

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        """Do it; a row a shard."""
        classes = {"latents": LatentEncoder, "t5_tokens": T5Encoder, "llm_tokens": LLMEncoder}
        encoders = [classes[name](self.data, self.model, self.config) for name, names in self.pending.items() if names]
        for planned in self.shards:
            row = shard_facts(planned, self.predecessors[planned.shard], self.retry, self.runs)
            row |= {name: planned.shard in names for name, names in self.pending.items()}
            for encoder in encoders:
                row = encoder(row)
            yield row


def rows_of(root: Path, name: str) -> list[dict[str, Any]]:
    """Every row of a table, shard by shard."""
    return [row for shard in Table(str(root / name)).scan() for row in shard.to_pylist()]


def regroup(data: Path, names: Sequence[str], shards: Mapping[str, Sequence[int]]) -> None:
    """Put the rows of tables into shards by the number in their clips' ids, as curation names shards."""
    for name in names:
        table, rows = Table(str(data / name)), rows_of(data, name)
        table.drop(table.shards())
        for shard, numbers in shards.items():
            members = [row for row in rows if int(row["clip_id"].split("-")[1]) in numbers]
            table.commit(shard, pa.Table.from_pylist(members, schema=SCHEMAS[name]))
        table.finish(len(rows))


def ids_and_states(data: Path, name: str) -> list[str]:
    """Every row of a table, in an order that does not depend on shards."""
    return sorted(map(repr, rows_of(data, name)))


def file_of(data: Path, name: str, shard: str) -> tuple[bytes, int]:
    """Bytes and time of a shard."""
    file = data / name / f"{shard}.parquet"
    return file.read_bytes(), file.stat().st_mtime_ns


def copy_of(data: Path, folder: Path, *without: str) -> Path:
    """Another data root with the same tables but for some; its clips are the same files."""
    shutil.copytree(data, folder / "data", ignore=shutil.ignore_patterns("videos", *without))
    return folder / "data"


OK = {"status": "ok", "reason": ""}
REJECTED = {"status": "rejected", "reason": "motion 0 is not above 0.001"}
