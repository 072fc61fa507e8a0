"""How fast one worker makes batches from tables on a local disk, and what a sample costs as the corpus grows.

python benchmarks/ingest.py                     # some minutes, 3 GB of disk; writes ingest.json beside it

rows of 480p    latents 13 x 32 x 60 x 90, T5 tokens 226 x 4096, an LLM's query and K=2 answers of 100 to 200
                tokens x 3072: 9 MB a clip. Random numbers in the recipes' bfloat16. Clips per second over a whole
                epoch, files dropped from the page cache before. The worker does nothing but make batches.
growth          1,000 to 100,000 clips of about 2 KB, in shards of 500. In turns, 10,000 samples of each corpus, epoch
                after epoch, each from tables that were just opened; the median turn's wall and CPU time of a sample,
                and over that of the smallest corpus in the same turn. Also the driver's time for ``open_data`` and the
                memory that it leaves.
"""

import argparse
import gc
import json
import logging
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mimir_ray.model.config import ModelConfig
from mimir_ray.records import SCHEMAS, StateDtype, pack_array
from mimir_ray.storage import Table
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.batches import Batches
from mimir_ray.training.data.samples import TrainingData, open_data

logger = logging.getLogger(__name__)

States = Callable[..., bytes]

TURN = 10_000
"""Samples."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=288, help="of 480p")
    parser.add_argument("--corpora", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=5, help="over the clips of 480p; the median is reported")
    parser.add_argument("--turns", type=int, default=10, help="over the corpora, after one of warm-up")
    parser.add_argument("--directory", type=Path, help="on the disk to measure; the system's temporary one otherwise")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        report = {
            "cpus": os.cpu_count(),
            "load_average": os.getloadavg()[0],
            "rows_of_480p": measure_480p(Path(directory), arguments.clips, arguments.rounds),
            "growth": measure_growth(Path(directory), arguments.corpora, arguments.turns),
        }
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def measure_480p(directory: Path, clips: int, rounds: int) -> dict[str, Any]:
    """Clips per second of one worker whose share of a batch is four."""
    if not clips:
        return {}
    root = directory / "480p"
    size = write_tables(root, clips, per_shard=48, shape=(13, 16, 60, 90), text=(226, 4096), llm_width=3072, tokens=100)
    config = TrainingConfig(steps=clips // 4, batch_size=4, learning_rate=1e-5, read_ahead=4, cache_mib=1024)
    data = open_data(str(root), True, config.caption_weights)
    rates, cpu_ms = [], []
    for _ in range(rounds):
        drop_from_page_cache(root)
        batches = Batches(data, config, scaling_factor=0.7, timesteps=1000, text_length=226)
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        seen = sum(len(batch.clip_ids) for batch in batches.ahead(0, config.steps))
        rates.append(seen / (time.perf_counter() - began_s))
        cpu_ms.append(1e3 * (time.process_time() - began_cpu_s) / seen)
        logger.info("480p: %.1f clips/s, %.1f ms of CPU a clip", rates[-1], cpu_ms[-1])
    return {
        "clips": clips,
        "mb_per_clip": round(size / clips / 1e6, 2),
        "clips_per_s": round(statistics.median(rates), 1),
        "clips_per_s_of_rounds": [round(rate, 1) for rate in rates],
        "cpu_ms_per_clip": round(statistics.median(cpu_ms), 2),
        "read_ahead": config.read_ahead,
    }


def measure_growth(directory: Path, corpora: list[int], turns: int) -> list[dict[str, Any]]:
    """Cost of a sample of corpora of small rows, side by side."""
    results: list[dict[str, Any]] = []
    streams = []
    for clips in corpora:
        root = directory / f"clips-{clips}"
        write_tables(root, clips, per_shard=500, shape=(1, 4, 4, 4), text=(4, 16), llm_width=16, tokens=4)
        gc.collect()
        before = peak_memory_mib()
        began_s = time.perf_counter()
        config = TrainingConfig(steps=clips // 8, batch_size=8, learning_rate=1e-5)
        data = open_data(str(root), True, config.caption_weights)
        opened_s, opened_mib = time.perf_counter() - began_s, peak_memory_mib() - before
        streams.append(epochs(data, config))
        results.append(
            {
                "clips": clips,
                "shards": len(data.counts),
                "open_data_us_per_clip": round(1e6 * opened_s / clips, 1),
                "open_data_mib": round(opened_mib, 1),
            }
        )
    timed = [[sample_us(stream) for stream in streams] for _ in range(turns + 1)][1:]
    for place, result in enumerate(results):
        ratios = [turn[place][0] / turn[0][0] for turn in timed]
        result |= {
            "us_per_sample": round(statistics.median(turn[place][0] for turn in timed), 1),
            "cpu_us_per_sample": round(statistics.median(turn[place][1] for turn in timed), 1),
            "over_smallest": round(statistics.median(ratios), 3),
            "over_smallest_of_turns": [round(ratio, 2) for ratio in ratios],
        }
        logger.info("%s", json.dumps(result))
    return results


def epochs(data: TrainingData, config: TrainingConfig) -> Iterator[int]:
    """Epoch after epoch, each with a reader that holds nothing yet; the samples of each batch that was made."""
    while True:
        batches = Batches(data, config, scaling_factor=0.7, timesteps=1000, text_length=4)
        for step in range(config.steps):
            yield len(batches.batch(step).clip_ids)


def sample_us(stream: Iterator[int]) -> tuple[float, float]:
    """Wall and CPU time of a sample in the next turn, in microseconds."""
    began_s, began_cpu_s, samples = time.perf_counter(), time.process_time(), 0
    while samples < TURN:
        samples += next(stream)
    return 1e6 * (time.perf_counter() - began_s) / samples, 1e6 * (time.process_time() - began_cpu_s) / samples


def peak_memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def drop_from_page_cache(root: Path) -> None:
    """Make the next read of these files one from the disk."""
    for path in root.rglob("*.parquet"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def write_tables(
    root: Path,
    clips: int,
    *,
    per_shard: int,
    shape: tuple[int, int, int, int],
    text: tuple[int, int],
    llm_width: int,
    tokens: int,
) -> int:
    """Random latents (T C h w), T5 tokens (N D) and LLM tokens with answers of ``tokens`` to twice as many; bytes."""
    states, lengths = _random_states(), np.random.default_rng(0)
    tables = {name: Table(str(root / name)) for name in ("latents", "t5_tokens", "llm_tokens")}
    for table in tables.values():
        table.begin(ModelConfig(base="random"))
    for number, first in enumerate(range(0, clips, per_shard)):
        ids = [f"{index:016d}" for index in range(first, min(first + per_shard, clips))]
        rows = {
            "latents": _latents(ids, states, shape),
            "t5_tokens": _t5(ids, states, text),
            "llm_tokens": _llm(ids, states, llm_width, lengths.integers(tokens, 2 * tokens, (len(ids), 3))),
        }
        for name, table in tables.items():
            made = pa.Table.from_pylist(list(rows[name]), schema=SCHEMAS[name])
            table.commit(f"shard-{number:05d}", made)
    for table in tables.values():
        table.finish(clips)
    return sum(path.stat().st_size for path in root.rglob("*.parquet"))


DTYPE: StateDtype = "bfloat16"
_OK = {"dtype": DTYPE, "status": "ok", "reason": ""}
_CAPTION = {"kind": "long", "text": "a caption " * 20}


def _random_states() -> States:
    """Packed normal numbers of any shape: slices of one long draw, from a place that differs each time."""
    generator = np.random.default_rng(0)
    numbers = generator.standard_normal(2**22 + 13 * 32 * 60 * 90, dtype=np.float32)

    def states(*shape: int) -> bytes:
        start = int(generator.integers(2**22))
        return pack_array(numbers[start : start + int(np.prod(shape))].reshape(shape), DTYPE)

    return states


def _latents(ids: list[str], states: States, shape: tuple[int, int, int, int]) -> Iterator[dict[str, Any]]:
    frames, channels, height, width = shape
    moments = [frames, 2 * channels, height, width]
    for clip_id in ids:
        yield {"clip_id": clip_id, "moments": states(*moments), "shape": moments, "frame_indices": [0], **_OK}


def _t5(ids: list[str], states: States, text: tuple[int, int]) -> Iterator[dict[str, Any]]:
    for clip_id in ids:
        yield {"clip_id": clip_id, "states": states(*text), "length": text[0], "width": text[1], **_CAPTION, **_OK}


def _llm(ids: list[str], states: States, width: int, lengths: Any) -> Iterator[dict[str, Any]]:
    for clip_id, (query, *answers) in zip(ids, lengths.tolist(), strict=True):
        yield {
            "clip_id": clip_id,
            "query_states": states(query, width),
            "query_length": query,
            "answers": [
                {"seed": seed, "token_ids": [1] * length, "states": states(length, width), "length": length}
                for seed, length in enumerate(answers)
            ],
            "instruction_states": states(4, width),
            "width": width,
            **_CAPTION,
            **_OK,
        }


if __name__ == "__main__":
    main()
