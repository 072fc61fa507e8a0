"""What curation costs: against data-juicer, against a plain loop without Ray, and as the corpus grows.

    python benchmarks/curation.py data-juicer --python VENV/bin/python     # clips/s of one process each, in turns
    python benchmarks/curation.py ray                                      # one CPU of Ray over a plain loop
    python benchmarks/curation.py growth --clips 200 2000 20000            # cost per clip, and the driver's memory
    python benchmarks/curation.py child                                    # decoding in a child over decoding here

`data-juicer` needs a virtual environment of its own with `py-data-juicer av==13.1.0 opencv-python-headless aiohttp`.
The same measures of resolution, duration, aspect and motion (Farneback at 2 fps, short side 256) run on the same clips;
ours measures black area, brightness and black frames on top, and decodes in a child that may crash. Each verb writes a
JSON file beside this one.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from mimir_ray.config import override
from mimir_ray.curation import CurationConfig, curate
from mimir_ray.curation.measure import measure_clip
from mimir_ray.curation.sources import discover
from mimir_ray.curation.split import split_files
from mimir_ray.video import child as decoder
from mimir_ray.video import read_frames, write_mp4

logger = logging.getLogger(__name__)

CONFIG = override(CurationConfig(), ["split=off", "files_per_shard=16"])
FPS = 16.0

DATA_JUICER = """
import json, sys, time
from data_juicer.ops.filter.video_aspect_ratio_filter import VideoAspectRatioFilter
from data_juicer.ops.filter.video_duration_filter import VideoDurationFilter
from data_juicer.ops.filter.video_motion_score_filter import VideoMotionScoreFilter
from data_juicer.ops.filter.video_resolution_filter import VideoResolutionFilter
from data_juicer.utils.constant import Fields
ops = [
    VideoResolutionFilter(),
    VideoDurationFilter(min_duration=1, video_backend="av"),
    VideoAspectRatioFilter(),
    VideoMotionScoreFilter(sampling_fps=2, size=256, relative=True),
]
for op in ops:
    if hasattr(op, "setup_model"):
        op.setup_model()
for line in sys.stdin:
    files = json.loads(line)
    began = time.perf_counter()
    scores = []
    for file in files:
        sample = {"videos": [file], "text": "", Fields.stats: {}, Fields.context: {}, Fields.meta: {}}
        for op in ops:
            sample = op.compute_stats_single(sample)
        scores.append(float(sample[Fields.stats]["video_motion_score"][0]))
    print(json.dumps({"seconds": time.perf_counter() - began, "motion": scores}), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    juicer = verbs.add_parser("data-juicer")
    juicer.add_argument("--python", required=True)
    juicer.add_argument("--clips", type=int, default=24)
    juicer.add_argument("--turns", type=int, default=5)
    overhead = verbs.add_parser("ray")
    overhead.add_argument("--clips", type=int, default=96)
    overhead.add_argument("--turns", type=int, default=3)
    growth = verbs.add_parser("growth")
    growth.add_argument("--clips", type=int, nargs="+", default=[200, 2000, 20000])
    child = verbs.add_parser("child")
    child.add_argument("--clips", type=int, default=32)
    child.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    os.environ |= {"RAY_worker_niceness": "0"}  # what is compared with Ray's workers is not nice either
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if arguments.verb == "data-juicer":
            result = against_data_juicer(root, arguments.python, arguments.clips, arguments.turns)
        elif arguments.verb == "ray":
            result = against_a_loop(root, arguments.clips, arguments.turns)
        elif arguments.verb == "child":
            result = against_decoding_here(root, arguments.clips, arguments.turns)
        else:
            result = as_it_grows(root, arguments.clips)
    report = {"cpus": os.cpu_count(), "load_average": os.getloadavg()[0], **result}
    logger.info("%s", json.dumps(report, indent=2))
    name = arguments.verb.replace("-", "_")
    Path(__file__).with_name(f"curation_{name}.json").write_text(json.dumps(report, indent=2) + "\n")


def against_data_juicer(root: Path, python: str, clips: int, turns: int) -> dict[str, Any]:
    """Seconds of both over the same clips, in turns; the first turn warms up and is not counted."""
    files = render(root / "in", clips, height=360, width=640)
    peer = subprocess.Popen(
        [python, "-c", DATA_JUICER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert peer.stdin is not None
    assert peer.stdout is not None
    ours, theirs, motion = [], [], {}
    for _ in range(turns + 1):
        began = time.perf_counter()
        rows = plain_loop(root / "in")
        ours.append(time.perf_counter() - began)
        peer.stdin.write(json.dumps([str(file) for file in files]) + "\n")
        peer.stdin.flush()
        answer = json.loads(next(line for line in peer.stdout if line.startswith("{")))
        theirs.append(answer["seconds"])
        motion = {"ours": statistics.fmean(rows), "data-juicer": statistics.fmean(answer["motion"])}
    peer.stdin.close()
    peer.wait()
    ratios = [b / a for a, b in zip(ours[1:], theirs[1:], strict=True)]
    return {
        "clips": clips,
        "ours_clips_per_s": clips / statistics.median(ours[1:]),
        "data_juicer_clips_per_s": clips / statistics.median(theirs[1:]),
        "times_as_fast": statistics.median(ratios),
        "of_turns": [round(ratio, 3) for ratio in ratios],
        "mean_motion": motion,
    }


def against_a_loop(root: Path, clips: int, turns: int) -> dict[str, Any]:
    """Seconds of `curate` on one CPU of a running Ray over those of a plain loop, in turns."""
    import ray

    render(root / "in", clips, height=360, width=640)
    ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=2**28, log_to_driver=False)
    loop, pipeline = [], []
    for turn in range(turns + 1):
        began = time.perf_counter()
        plain_loop(root / "in")
        loop.append(time.perf_counter() - began)
        began = time.perf_counter()
        curate([str(root / "in")], str(root / f"out{turn}"), CONFIG)
        pipeline.append(time.perf_counter() - began)
    ratios = [b / a for a, b in zip(loop[1:], pipeline[1:], strict=True)]
    return {
        "clips": clips,
        "loop_clips_per_s": clips / statistics.median(loop[1:]),
        "ray_clips_per_s": clips / statistics.median(pipeline[1:]),
        "ray_over_loop": statistics.median(ratios),
        "of_turns": [round(ratio, 3) for ratio in ratios],
    }


def as_it_grows(root: Path, sizes: Sequence[int]) -> dict[str, Any]:
    """Time a clip, on the clock and of all processors together, and the driver's peak of memory, for several sizes."""
    import ray

    ray.init(address="local", include_dashboard=False, object_store_memory=2**28, log_to_driver=False)
    results = []
    for size in sizes:
        copies(root / f"in{size}", size)
        with Peak() as peak:
            began, busy = time.perf_counter(), processor_s()
            summary = curate([str(root / f"in{size}")], str(root / f"out{size}"), CONFIG)
            seconds, busy = time.perf_counter() - began, processor_s() - busy
        assert summary.clips.ok == size
        results.append(
            {
                "clips": size,
                "ms_per_clip": 1000 * seconds / size,
                "processor_ms_per_clip": 1000 * busy / size,
                "driver_peak_mib": peak.mib,
            }
        )
        logger.info("%s", json.dumps(results[-1]))
    return {"results": results}


def against_decoding_here(root: Path, clips: int, turns: int) -> dict[str, Any]:
    """Seconds of `read_frames`, whose decoders live in a child, over those of the same decoders in this process."""
    files = render(root / "in", clips, height=360, width=640)
    results = {}
    for what, indices, short_side_px in (("measuring", range(0, 65, 8), 256), ("whole frames", range(65), None)):
        request = {"indices": list(indices), "short_side_px": short_side_px, "decord": True}
        here, there = [], []
        for _ in range(turns + 1):
            began = time.perf_counter()
            for file in files:
                decoder.read(request | {"path": str(file)}, decoder.facts(str(file), decoder.mtime_ns(str(file))))
            here.append(time.perf_counter() - began)
            began = time.perf_counter()
            for file in files:
                read_frames(file, list(indices), short_side_px=short_side_px)
            there.append(time.perf_counter() - began)
        ratios = [b / a for a, b in zip(here[1:], there[1:], strict=True)]
        results[what] = {
            "frames_per_clip": len(indices),
            "short_side_px": short_side_px or 360,
            "here_ms_per_clip": 1000 * statistics.median(here[1:]) / clips,
            "child_ms_per_clip": 1000 * statistics.median(there[1:]) / clips,
            "child_over_here": statistics.median(ratios),
            "of_turns": [round(ratio, 3) for ratio in ratios],
        }
    return {"clips": clips, "results": results}


def plain_loop(folder: Path) -> list[float]:
    """The CPU stages without Ray and without tables; the motion of each clip."""
    _, clips = split_files(discover([str(folder)]).files, CONFIG, str(folder / "media"))
    return [measure_clip(clip, CONFIG)["motion"] for clip in clips]


def render(folder: Path, count: int, *, height: int, width: int, frames: int = 65) -> list[Path]:
    """Clips of a texture that moves, each another one."""
    folder.mkdir(parents=True)
    files = []
    for index in range(count):
        texture = np.random.default_rng(index).integers(40, 255, (height // 8, width // 8 + 65, 3), dtype=np.uint8)
        large = texture.repeat(8, axis=0).repeat(8, axis=1)
        video = np.stack([large[:, 4 * frame : 4 * frame + width] for frame in range(frames)])
        files.append(folder / f"{index:05d}.mp4")
        write_mp4(files[-1], video[:, :height], FPS)
    return files


def copies(folder: Path, count: int) -> None:
    """One small clip under `count` names, each of other bytes: boxes that players skip hold its number."""
    (file,) = render(folder.with_name(folder.name + "-one"), 1, height=64, width=64)
    data = file.read_bytes()
    folder.mkdir()
    for index in range(count):
        box = (16).to_bytes(4, "big") + b"free" + index.to_bytes(8, "big")
        (folder / f"{index:06d}.mp4").write_bytes(data + box * (1 + index % 97))


def processor_s() -> float:
    """Processor time of this process, of Ray's and of their workers so far, ended ones included."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in [me, *me.children(recursive=True)])


class Peak:
    """The largest resident memory of this process while it is open."""

    mib = 0.0

    def __enter__(self) -> "Peak":
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._done.wait(0.2):
            self.mib = max(self.mib, process.memory_info().rss / 2**20)


if __name__ == "__main__":
    main()
