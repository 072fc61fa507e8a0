"""What Ray, shards and tables cost a precompute, against a plain loop over the same functions and models.

    python benchmarks/precompute_overhead.py                     # writes precompute_overhead.json beside it

Clips, captions and models are those of the shapes world. Everything runs on one core: the loop, and a Ray of one CPU
whose three actors share it. In turns, over few clips and over many:

    ours     ``precompute``: three actors start, load their models, encode shard by shard and commit three tables
    plain    the encoders one after another over each shard, in a process that has loaded them; nothing is written

A precompute starts its actors once, however many clips there are. So the ratio is that of what the additional clips
take, the median over turns after one of warm-up; what the start takes is told apart, and the ratio with it too.
"""

import argparse
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mimir_ray.config import override
from mimir_ray.curation import curate
from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute import PrecomputeConfig, precompute
from mimir_ray.recipes import shapes
from mimir_ray.shapes.dataset import render_corpus

logger = logging.getLogger(__name__)

TABLES = ("latents", "t5_tokens", "llm_tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs=2, default=[64, 512], metavar=("FEW", "MANY"))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    os.environ |= {"RAY_worker_niceness": "0"}  # what is compared with Ray's workers is not nice either
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # and all that it starts
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=2**28, log_to_driver=False)
    recipe = override(shapes(), [f"precompute.{table}.num_cpus=0.3" for table in TABLES])
    with tempfile.TemporaryDirectory() as folder:
        roots = []
        for count in arguments.clips:
            corpus = render_corpus(Path(folder, f"corpus{count}"), count)
            roots.append(str(Path(folder, f"data{count}")))
            curate([str(corpus)], roots[-1], recipe.curation)
        result = compare(roots, recipe.model, recipe.precompute, arguments.turns)
    report = {"cpus": os.cpu_count(), "load_average": os.getloadavg()[0], **result}
    logger.info("%s", json.dumps(report, indent=2))
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def compare(roots: list[str], model: ModelConfig, config: PrecomputeConfig, turns: int) -> dict[str, Any]:
    """Both ways over both data roots, in turns."""
    plain = plain_loop(model, config)
    seconds: dict[str, list[float]] = {f"{way} {size}": [] for way in ("plain", "ours") for size in ("few", "many")}
    rows: dict[str, int] = {}
    for _ in range(turns + 1):
        for size, root in zip(("few", "many"), roots, strict=True):
            began = time.perf_counter()
            looped = plain(root)
            seconds[f"plain {size}"].append(time.perf_counter() - began)
            for table in TABLES:
                shutil.rmtree(Path(root, table), ignore_errors=True)
            began = time.perf_counter()
            summary = precompute(root, model, config)
            seconds[f"ours {size}"].append(time.perf_counter() - began)
            rows[size] = sum(manifest.ok for manifest in summary.tables.values())
            assert looped == rows[size], f"the loop made {looped} rows, precompute {rows[size]}"
    counted = {name: times[1:] for name, times in seconds.items()}
    added = {
        way: [many - few for few, many in zip(counted[f"{way} few"], counted[f"{way} many"], strict=True)]
        for way in ("plain", "ours")
    }
    ratios = [ours / plain for ours, plain in zip(added["ours"], added["plain"], strict=True)]
    whole = [ours / plain for ours, plain in zip(counted["ours many"], counted["plain many"], strict=True)]
    per_row_s = statistics.median(added["ours"]) / (rows["many"] - rows["few"])
    return {
        "rows": rows,
        "seconds": {name: statistics.median(times) for name, times in counted.items()},
        "ours_over_plain": statistics.median(ratios),
        "of_turns": [round(ratio, 3) for ratio in ratios],
        "with_start": statistics.median(whole),
        "start_s": statistics.median(counted["ours few"]) - rows["few"] * per_row_s,
    }


def plain_loop(model: ModelConfig, config: PrecomputeConfig) -> Callable[[str], int]:
    """A loop whose models are loaded; it returns the number of rows that are ok."""
    from mimir_ray.precompute.components import load_llm, load_t5, load_vae
    from mimir_ray.precompute.encode import latent_rows, llm_rows, t5_rows
    from mimir_ray.precompute.inputs import curated_shards, ok_captions, ok_clips
    from mimir_ray.records import Clip
    from mimir_ray.video import read_frames

    vae, t5, llm = load_vae(model, 0), load_t5(model, 0), load_llm(model, 0)

    def read(clip: Clip, indices: Any) -> Any:
        return read_frames(clip.path, indices, timeout_s=config.decode_timeout_s).frames

    def loop(root: str) -> int:
        ok = 0
        for shard in curated_shards(root):
            captions = ok_captions(root, shard)
            for rows in (
                latent_rows(ok_clips(root, shard), read, vae, config),
                t5_rows(captions, t5, config),
                llm_rows(captions, llm, config),
            ):
                ok += sum(row["status"] == "ok" for row in rows)
        return ok

    return loop


if __name__ == "__main__":
    main()
