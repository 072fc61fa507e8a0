"""What validation beside a training costs the training's steps.

    python benchmarks/validation_overhead.py          # writes validation_overhead.json beside it

Model and clips are those of the shapes world. The same run is trained with validation and without it in turns, in one
Ray; with it, videos are made while steps go on. Of each run the median of its steps' seconds is taken (those after the
first checkpoint, where the first validation begins), and the ratio is the median over turns of with / without.

Training hands nothing over: what is left to pay is that both compute at once. On few cores they compete for them, so
there the ratio tells of the machine; with a CPU or GPU of its own for the validation it tells of the design. The
report has the number of CPUs, and the load average after each run: what others compute spoils both.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from mimir_ray.curation import curate
from mimir_ray.precompute import encode_in_memory
from mimir_ray.recipes import shapes
from mimir_ray.shapes.dataset import render_corpus
from mimir_ray.shapes.prompts import evaluation_prompts
from mimir_ray.training import LoggingConfig, TrainingConfig, ValidationConfig, read_validations, train
from mimir_ray.training.reporting.metrics import read_metrics

logger = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    os.environ |= {"RAY_worker_niceness": "0"}
    import ray

    cpus = max(4, arguments.workers + 2)  # as Ray counts; what there is may be less, and is in the report
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=2**28, log_to_driver=False)
    recipe = shapes()
    prompts = tuple(prompt.text for prompt in evaluation_prompts("long", arguments.prompts))
    beside = {
        "without": ValidationConfig(),
        "with": ValidationConfig(every=arguments.every, prompts=prompts),
    }
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in beside}
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder, "data"))
        curate([str(render_corpus(Path(folder, "corpus"), 64))], data, recipe.curation)
        source = encode_in_memory(data, recipe.model, recipe.precompute)
        for turn in range(arguments.turns):
            for name, validation in beside.items():
                config = recipe.training.model_copy(
                    update={
                        "steps": arguments.steps,
                        "workers": arguments.workers,
                        "checkpoint_every": arguments.every,
                        "log_every": 1,
                        "validation": validation,
                        "logging": LoggingConfig(to=()),
                    }
                )
                out = str(Path(folder, f"{name}-{turn}"))
                train(
                    data,
                    out,
                    recipe.model,
                    config,
                    source=lambda: source,
                    generation=recipe.generation,
                    on_metrics=_ignore,
                )
                turns[name].append(measure(out, config))
                logger.info("%s", json.dumps({"turn": turn, "run": name} | turns[name][-1]))
    ratios = [one["step_ms"] / other["step_ms"] for one, other in zip(turns["with"], turns["without"], strict=True)]
    report = {
        "cpus": os.cpu_count(),
        "workers": arguments.workers,
        "steps": arguments.steps,
        "every": arguments.every,
        "prompts": arguments.prompts,
        "ratio_median": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "turns": turns,
    }
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def measure(out: str, config: TrainingConfig) -> dict[str, Any]:
    """The median step of a run after its first checkpoint, and what its validations made."""
    seconds = [
        config.batch_size / row["samples_per_s"]
        for row in read_metrics(f"{out}/metrics.jsonl")
        if row["step"] > config.checkpoint_every
    ]
    validations = read_validations(out)
    return {
        "step_ms": round(1e3 * statistics.median(seconds), 2),
        "steps_s": round(sum(seconds), 2),
        "videos": sum(validation.made for validation in validations),
        "video_s": round(sum(validation.seconds for validation in validations), 2),
        "load_average": round(os.getloadavg()[0], 1),
    }


def _ignore(row: dict[str, Any]) -> None:
    """No line for every step."""


if __name__ == "__main__":
    main()
