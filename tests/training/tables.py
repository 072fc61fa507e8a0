"""Tables of random tokens and latents, as precompute writes them, that fit the tiny models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mimir_ray.records import SCHEMAS, pack_array
from mimir_ray.storage import Table
from mimir_ray.training.config import TrainingConfig
from tests.tiny import LATENT_CHANNELS, LLM_DIM, TEXT_DIM, TEXT_LENGTH

KINDS = ("long", "short")
ANSWERS = 2


def write_tables(
    root: Path,
    clips: int = 12,
    shards: int = 3,
    *,
    names: Sequence[str] = ("latents", "t5_tokens", "llm_tokens"),
    finish: bool = True,
    shapes: Sequence[tuple[int, int, int, int]] = ((3, LATENT_CHANNELS, 8, 8),),
) -> str:
    """Write tables of ``clips`` clips and return ``root``. The last clip of each shard is quarantined.

    The latents (T C h w) of a shard's clips take the ``shapes`` in turn.
    """
    rng = np.random.default_rng(0)
    tables = {name: Table(str(root / name)) for name in names}
    rows = dict.fromkeys(names, 0)
    for table in tables.values():
        table.begin(TrainingConfig(steps=1, batch_size=1, learning_rate=1.0))
    for shard in range(shards):
        ids = [f"clip{index:03d}" for index in range(clips) if index % shards == shard]
        parts = {
            "latents": [
                _latents(rng, clip_id, clip_id != ids[-1], shapes[place % len(shapes)])
                for place, clip_id in enumerate(ids)
            ],
            "t5_tokens": [_t5(rng, clip_id, kind) for clip_id in ids for kind in KINDS],
            "llm_tokens": [_llm(rng, clip_id, kind) for clip_id in ids for kind in KINDS],
        }
        for name, table in tables.items():
            table.commit(f"shard-{shard}", pa.Table.from_pylist(parts[name], schema=SCHEMAS[name]))
            rows[name] += len(parts[name])
    if finish:
        for name, table in tables.items():
            table.finish(rows[name])
    return str(root)


def _states(rng: np.random.Generator, *shape: int) -> bytes:
    return pack_array(rng.standard_normal(shape, dtype=np.float32), "float16")


def _latents(rng: np.random.Generator, clip_id: str, fine: bool, shape: tuple[int, int, int, int]) -> dict[str, object]:
    frames, channels, height, width = shape
    return {
        "clip_id": clip_id,
        "moments": _states(rng, frames, 2 * channels, height, width),
        "shape": [frames, 2 * channels, height, width],
        "dtype": "float16",
        "frame_indices": list(range(9)),
        "status": "ok" if fine else "quarantined",
        "reason": "" if fine else "cut off",
    }


def _t5(rng: np.random.Generator, clip_id: str, kind: str) -> dict[str, object]:
    return {
        "clip_id": clip_id,
        "kind": kind,
        "text": f"{kind} words",
        "states": _states(rng, TEXT_LENGTH, TEXT_DIM),
        "length": TEXT_LENGTH,
        "width": TEXT_DIM,
        "dtype": "float16",
        "status": "ok",
        "reason": "",
    }


def _llm(rng: np.random.Generator, clip_id: str, kind: str) -> dict[str, object]:
    lengths = [int(length) for length in rng.integers(3, 12, ANSWERS)]
    return {
        "clip_id": clip_id,
        "kind": kind,
        "text": f"{kind} words",
        "query_states": _states(rng, 5, LLM_DIM),
        "query_length": 5,
        "answers": [
            {"seed": seed, "token_ids": [1] * length, "states": _states(rng, length, LLM_DIM), "length": length}
            for seed, length in enumerate(lengths)
        ],
        "instruction_states": _states(rng, 4, LLM_DIM),
        "width": LLM_DIM,
        "dtype": "float16",
        "status": "ok",
        "reason": "",
    }
