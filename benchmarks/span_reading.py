"""What it costs to encode clips as spans of a film, against the same clips as files of their own.

    python -m benchmarks.span_reading       # writes span_reading.json beside it

Films of 1280x720 and 40 shots, once with a keyframe at most cuts, as x264 makes them, and once with one every 250
frames and nowhere else. Every shot is a clip, in two data roots: in one a span of its film, in the other a file, as
curation used to encode it (x264, veryfast, crf 18). In turns, in one process, on one thread:

    reading      the frames of every clip that `precompute.sample_fps` and `num_frames` choose, of a shard in its order
    latents      the table `latents` of the same clips, by the actor that `mimir precompute` uses, with a tiny VAE

A larger VAE makes reading a smaller part of the whole, so the second ratio is as bad as it can be on a CPU.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.film_curation import film
from mimir_ray.config import override
from mimir_ray.curation import CurationConfig, curate
from mimir_ray.precompute import PrecomputeConfig
from mimir_ray.precompute.actors import LatentEncoder
from mimir_ray.precompute.frames import choose_size
from mimir_ray.precompute.inputs import ok_clips
from mimir_ray.precompute.shard_plan import plan_shards
from mimir_ray.precompute.sources import Sources
from mimir_ray.recipes import shapes
from mimir_ray.records import Clip
from mimir_ray.storage import Table
from mimir_ray.video import cut_clip

logger = logging.getLogger(__name__)

GOPS = {"keyframes at cuts": {}, "a keyframe every 250 frames": {"x264-params": "keyint=250:min-keyint=250:scenecut=0"}}
SAMPLED = {"9 frames over the clip": None, "17 frames at 8 a second": 8.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=40)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=2**28, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        roots = {gop: both(Path(folder), gop, arguments.shots) for gop in GOPS}
        ray.shutdown()
        results = [
            {"film": gop, "sampled": sampled} | compare(root, fps, arguments.turns)
            for gop, root in roots.items()
            for sampled, fps in SAMPLED.items()
        ]
    report = {"cpus": os.cpu_count(), "load_average": os.getloadavg()[0], "shots": arguments.shots, "results": results}
    logger.info("%s", json.dumps(report, indent=2))
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def both(folder: Path, gop: str, shots: int) -> dict[str, str]:
    """Two data roots with the same clips: spans of a film, and files."""
    home = folder / gop.replace(" ", "-")
    home.mkdir()
    source = film(home / "film.mp4", shots, seed=0, options=GOPS[gop])
    spans, files = home / "spans", home / "files"
    curate([str(source)], str(spans), override(CurationConfig(), ["basic.min_frames=1"]))
    clips = Table(str(spans / "clips"))
    for row in clips.read(clips.shards()[0]).to_pylist():
        span = row["first_frame"], row["first_frame"] + row["frames"]
        cut_clip(
            source, home / "clips" / f"{row['first_frame']:06d}.mp4", *span, mode="reencode", crf=18, timeout_s=600
        )
    curate([str(home / "clips")], str(files), override(CurationConfig(), ["split=off", "basic.min_frames=1"]))
    return {"spans": str(spans), "files": str(files)}


def compare(roots: dict[str, str], fps: float | None, turns: int) -> dict[str, Any]:
    """Ratios of both steps, spans over files, the medians of turns after one of warm-up."""
    recipe = shapes()
    sizes = {"num_frames": 9 if fps is None else 17, "sample_fps": fps, "height": 64, "width": 112}
    config = recipe.precompute.model_copy(update=sizes | {"clips_per_shard": 1024})
    steps = {name: (reading(root, config), latents(root, config)) for name, root in roots.items()}
    found: dict[str, Any] = {}
    for place, step in enumerate(("reading", "latents")):
        seconds: dict[str, list[float]] = {name: [] for name in roots}
        for _ in range(turns + 1):
            for name in roots:
                began = time.perf_counter()
                steps[name][place]()
                seconds[name].append(time.perf_counter() - began)
        ratios = [a / b for a, b in zip(seconds["spans"][1:], seconds["files"][1:], strict=True)]
        found[step] = {
            "spans_over_files": statistics.median(ratios),
            "of_turns": [round(ratio, 3) for ratio in ratios],
            **{f"{name}_s": statistics.median(made[1:]) for name, made in seconds.items()},
        }
    return found


def chosen(root: str, config: PrecomputeConfig) -> list[Clip]:
    """The clips of a data root in the order in which the encoder reads them."""
    clips = [clip for planned in plan_shards(root, config.clips_per_shard) for clip in ok_clips(root, planned)]
    return sorted(clips, key=lambda clip: (clip.path, clip.first_frame))


def reading(root: str, config: PrecomputeConfig) -> Callable[[], None]:
    """Reads the frames of every clip that are to be encoded."""
    clips = [(clip, choose_size(clip, config)[1]) for clip in chosen(root, config)]

    def read() -> None:
        with Sources(root, config.decode_timeout_s) as sources:
            for clip, indices in clips:
                sources.read(clip, indices)

    return read


def latents(root: str, config: PrecomputeConfig) -> Callable[[], None]:
    """Makes the rows of `latents`."""
    clips, encoder = chosen(root, config), LatentEncoder(root, shapes().model.located(), config)

    def encode() -> None:
        rows = encoder.encode(clips)
        assert [row["status"] for row in rows] == ["ok"] * len(clips)

    return encode


if __name__ == "__main__":
    main()
