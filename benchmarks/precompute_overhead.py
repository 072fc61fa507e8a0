"""What Ray, shards and tables cost a precompute, against a plain loop over the same functions and models.

    python benchmarks/precompute_overhead.py                     # writes precompute_overhead.json beside it

Clips, captions and models are those of the shapes world. One table at a time, so that on both sides one process
computes, on one thread; Ray's own processes have the other cores, as they have beside a GPU. In turns, over few clips
and over many:

    ours     ``precompute`` with that table to make: an actor starts, loads its model, encodes and commits each shard
    plain    the table's function over each shard, in a process that has loaded the model; nothing is written

What Ray and tables cost is a matter of shards, not of what a row takes; so the ratio depends on the models and on how
many clips a shard holds, which is the recipe's unless it is given. Two sizes of video show what the models do to it:
the shapes world's own, of 9 frames of 64 x 64, and one whose clips are 7 times as much work.

A precompute starts its actors once, however many clips there are. So the ratio is that of what the additional clips
take, all tables together, the median over turns after one of warm-up; what the start takes is told apart.
"""

import argparse
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mimir_ray.curation import curate
from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute import PrecomputeConfig, precompute
from mimir_ray.recipes import shapes
from mimir_ray.shapes.dataset import render_corpus
from mimir_ray.storage import Table

logger = logging.getLogger(__name__)

TABLES = ("latents", "t5_tokens", "llm_tokens")
SIZES = ("few", "many")
WAYS = ("plain", "ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs=2, default=[128, 512], metavar=("FEW", "MANY"))
    parser.add_argument("--clips-per-shard", type=int, default=shapes().precompute.clips_per_shard)
    parser.add_argument("--sizes", nargs="+", default=["9x64x64", "17x128x128"], metavar="FRAMESxHEIGHTxWIDTH")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    os.environ |= {"RAY_worker_niceness": "0"}  # what is compared with Ray's workers is not nice either
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=2**28, log_to_driver=False)
    recipe, results = shapes(), {}
    encoding = recipe.precompute.model_copy(update={"clips_per_shard": arguments.clips_per_shard})
    with tempfile.TemporaryDirectory() as folder:
        roots = []
        for count in arguments.clips:
            corpus = render_corpus(Path(folder, f"corpus{count}"), count)
            roots.append(str(Path(folder, f"data{count}")))
            curate([str(corpus)], roots[-1], recipe.curation)
        for size in arguments.sizes:
            fields = dict(zip(("num_frames", "height", "width"), map(int, size.split("x")), strict=True))
            results[size] = compare(roots, recipe.model, encoding.model_copy(update=fields), arguments.turns)
            logger.info("%s: %s", size, json.dumps(results[size], indent=2))
    report: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "clips_per_shard": arguments.clips_per_shard,
    }
    report["sizes"] = results
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def compare(roots: list[str], model: ModelConfig, config: PrecomputeConfig, turns: int) -> dict[str, Any]:
    """Both ways over both data roots, table by table, in turns."""
    loops = plain_loops(model, config)
    for root in roots:
        precompute(root, model, config, overwrite=True)
    times = [
        {
            (table, size, way): seconds
            for table in TABLES
            for size, root in zip(SIZES, roots, strict=True)
            for way, seconds in zip(WAYS, both_ways(table, root, loops[table], model, config), strict=True)
        }
        for _ in range(turns + 1)
    ][1:]
    sums = [
        {(size, way): sum(turn[table, size, way] for table in TABLES) for size in SIZES for way in WAYS}
        for turn in times
    ]
    added = [{way: turn["many", way] - turn["few", way] for way in WAYS} for turn in sums]
    ratios = [turn["ours"] / turn["plain"] for turn in added]
    rows = {size: sum(len(one) for one in rows_of(root)) for size, root in zip(SIZES, roots, strict=True)}
    shards = {size: len(Table(str(Path(root, TABLES[0]))).shards()) for size, root in zip(SIZES, roots, strict=True)}
    row_s = {way: statistics.median(turn[way] for turn in added) / (rows["many"] - rows["few"]) for way in WAYS}
    few_s = {way: statistics.median(turn["few", way] for turn in sums) for way in WAYS}
    return {
        "rows": rows,
        "shards": shards,
        "seconds": {
            table: {
                f"{size} {way}": round(statistics.median(turn[table, size, way] for turn in times), 2)
                for size in SIZES
                for way in WAYS
            }
            for table in TABLES
        },
        "ms_per_row": {way: round(1e3 * seconds, 2) for way, seconds in row_s.items()},
        "ours_over_plain": round(statistics.median(ratios), 3),
        "of_turns": [round(ratio, 3) for ratio in ratios],
        "start_s": round(few_s["ours"] - rows["few"] * row_s["ours"], 1),
    }


def both_ways(
    table: str, root: str, plain: Callable[[str], int], model: ModelConfig, config: PrecomputeConfig
) -> tuple[float, float]:
    """Seconds of the loop, and of ``precompute`` with that table to make."""
    began = time.perf_counter()
    looped = plain(root)
    plain_s = time.perf_counter() - began
    shutil.rmtree(Path(root, table))
    began = time.perf_counter()
    summary = precompute(root, model, config)
    ours_s = time.perf_counter() - began
    encoded = summary.rows_encoded
    assert encoded == dict.fromkeys(TABLES, 0) | {table: looped}, f"the loop made {looped} rows, precompute {encoded}"
    return plain_s, ours_s


def rows_of(root: str) -> Iterator[Any]:
    for table in TABLES:
        yield from Table(str(Path(root, table))).scan(["status"])


def plain_loops(model: ModelConfig, config: PrecomputeConfig) -> dict[str, Callable[[str], int]]:
    """A loop for each table, whose model is loaded; it returns the number of rows."""
    import torch

    from mimir_ray.precompute.components import load_llm, load_t5, load_vae
    from mimir_ray.precompute.encode import latent_rows, llm_rows, t5_rows
    from mimir_ray.precompute.inputs import ok_captions, ok_clips
    from mimir_ray.precompute.shard_plan import PlannedShard, plan_shards
    from mimir_ray.precompute.sources import Sources

    torch.set_num_threads(1)
    vae, t5, llm = load_vae(model, 0), load_t5(model, 0), load_llm(model, 0)

    def shards(root: str) -> list[PlannedShard]:
        return plan_shards(root, config.clips_per_shard)

    def latents(root: str) -> int:
        rows = 0
        for planned in shards(root):
            with Sources(root, config.decode_timeout_s) as sources:
                rows += len(latent_rows(ok_clips(root, planned), sources.read, vae, config))
        return rows

    def t5_tokens(root: str) -> int:
        return sum(len(t5_rows(ok_captions(root, planned), t5, config)) for planned in shards(root))

    def llm_tokens(root: str) -> int:
        return sum(len(llm_rows(ok_captions(root, planned), llm, config)) for planned in shards(root))

    return {"latents": latents, "t5_tokens": t5_tokens, "llm_tokens": llm_tokens}


if __name__ == "__main__":
    main()
