"""What curating films costs, against an earlier commit that wrote every clip as a file, on the same films in turns.

    python benchmarks/film_curation.py                     # against bd0ad73; writes film_curation.json beside it

Films of 1280x720 and 40 shots each, of textures with grain over which a camera moves, in H.264 as x264 makes it. Two
processes curate a film each at the same time, through the functions that Ray runs: files to shots, clips, scores and
verdicts, every threshold at its default. CPU seconds are those of both processes and of the decoders that they start,
less what importing the code and starting took (the same run over a film of two frames). Peak memory is that of the
largest worker and of the largest decoder.

The clips tables of both are compared, row by row: the same spans, verdicts and rules. Decoding the films and nothing
else, in one thread a film, is the limit of what is left.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
FPS = 24
GRAIN = 3.0  # 3 Mbit/s, as 720p comes from the web; 4.0 makes 9 Mbit/s of it

CURATE = """
import json, os, pickle, resource, sys, time
film, out = sys.argv[1:]
from mimir_ray.curation import CurationConfig
try:
    from mimir_ray.curation.sources import discover
except ImportError:
    from mimir_ray.curation.discover import discover
from mimir_ray.curation.rules import Rules
from mimir_ray.curation.stages import judge, score, scoring_stages, split
from mimir_ray.curation.tables import outcome_table, rows_of
config = CurationConfig()
files = discover([film])
row = {"shard": "all", "files": pickle.dumps(list(getattr(files, "files", files)))}
row |= {"predecessors": [], "before": []}  # the last is its name in older code
began = time.perf_counter()
split(row, out, config)
stages, rules = scoring_stages(config), Rules.of(config)
for place, stage in enumerate(stages):
    score({"shard": "all"}, out, stage, [s.name for s in stages[:place]], rules, stage.load())
judge({"shard": "all"}, out, [stage.name for stage in stages], rules)
seconds = time.perf_counter() - began
from mimir_ray.video import read
def peak_mib(process):
    return next(int(line.split()[1]) / 1024 for line in open(f"/proc/{process}/status") if line.startswith("VmHWM"))
roles = [role._child for role in vars(read).values() if hasattr(role, "_child")]
decoders = [child for child in [getattr(read, "_current", None), *roles] if child is not None]
peaks = [peak_mib(child._process.pid) for child in decoders if child._process.poll() is None]
for child in decoders:
    child.close()
rows = rows_of(outcome_table(out, "clips"), "all")
kept = ("start_s", "end_s", "frames", "width_px", "height_px", "status", "rule", "motion", "brightness")
own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({
    "wall_s": seconds,
    "cpu_s": sum(usage.ru_utime + usage.ru_stime for usage in (own, children)),
    "worker_mib": peak_mib("self"),
    "decoder_mib": max(peaks),
    "clips": [{name: row[name] for name in kept} for row in rows],
}))
"""

DECODE = """
import json, sys, time
import av
began, cpu, frames = time.perf_counter(), time.process_time(), 0
with av.open(sys.argv[1]) as container:
    stream = container.streams.video[0]
    stream.thread_count = 1
    for frame in container.decode(stream):
        frames += 1
print(json.dumps({"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu, "frames": frames}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="bd0ad73", help="the commit to compare with")
    parser.add_argument("--shots", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--grain", type=float, nargs="+", default=[GRAIN, 4.0], help="standard deviations, of 255 levels"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        before = root / "before"
        git = ["git", "-C", str(ROOT)]
        subprocess.run([*git, "worktree", "add", "--detach", str(before), arguments.before], check=True)
        try:
            codes = {"before": before, "now": ROOT}
            report: dict[str, Any] = {"cpus": os.cpu_count(), "load_average": os.getloadavg()[0]}
            report |= {"against": arguments.before, "shots_a_film": arguments.shots, "results": []}
            for levels in arguments.grain:  # the file is written after each: a run that is stopped keeps what it has
                found = compare(codes, root / f"grain-{levels:g}", arguments.shots, arguments.turns, levels)
                report["results"].append(found)
                logger.info("%s", json.dumps(found, indent=2))
                arguments.out.write_text(json.dumps(report, indent=2) + "\n")
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(before)], check=True)


def compare(codes: dict[str, Path], root: Path, shots: int, turns: int, grain: float) -> dict[str, Any]:
    """Medians over turns, in each of which both codes and plain decoding have their go."""
    root.mkdir()
    logger.info("writing two films of %d shots with grain of %g", shots, grain)
    films = [film(root / f"film-{seed}.mp4", shots, seed, grain_levels=grain) for seed in range(2)]
    empty = [film(root / f"empty-{seed}.mp4", 1, seed, frames=2) for seed in range(2)]
    place = count()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*codes, "decoding")}
    for turn in range(turns):
        for name, code in codes.items():
            start, run = (together(code, CURATE, some, root / f"out-{next(place)}") for some in (empty, films))
            run["cpu_s"] -= start["cpu_s"]
            runs[name].append(run)
        runs["decoding"].append(together(ROOT, DECODE, films, None))
        told = {name: f"{made[-1]['cpu_s']:.1f} s CPU, {made[-1]['wall_s']:.1f} s" for name, made in runs.items()}
        logger.info("turn %d: %s", turn + 1, told)
    before, now = (runs[name][-1]["clips"] for name in codes)
    spans = ("start_s", "end_s", "frames", "width_px", "height_px", "status", "rule")
    differing = sum(
        [a[name] for name in spans] != [b[name] for name in spans] for a, b in zip(before, now, strict=True)
    )
    median = {
        name: {key: statistics.median(run[key] for run in made) for key in made[0] if key != "clips"}
        for name, made in runs.items()
    }
    return {
        "grain": grain,
        "films": len(films),
        "mbit_per_s": sum(8e-6 * file.stat().st_size for file in films) / median["decoding"]["frames"] * FPS,
        "frames": median["decoding"]["frames"],
        "clips": len(now),
        "rows_that_differ": differing,
        "largest_difference": {
            name: max(abs(a[name] - b[name]) for a, b in zip(before, now, strict=True))
            for name in ("motion", "brightness")
        },
        "median": median,
        "cpu_ratio": [a["cpu_s"] / b["cpu_s"] for a, b in zip(*(runs[name] for name in codes), strict=True)],
        "wall_ratio": [a["wall_s"] / b["wall_s"] for a, b in zip(*(runs[name] for name in codes), strict=True)],
        "decoding_share": median["decoding"]["cpu_s"] / median["now"]["cpu_s"],
    }


def together(code: Path, script: str, films: list[Path], out: Path | None) -> dict[str, Any]:
    """Run a script on each film at the same time, with this code; sums of CPU time, the longest wall time and peaks."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(film), *([str(out / film.stem)] if out else [])],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"},
            cwd=code,
        )
        for film in films
    ]
    said = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    made: dict[str, Any] = {"clips": [clip for one in said for clip in one.get("clips", ())]}
    for key in said[0]:
        if key != "clips":
            merge = sum if key in ("cpu_s", "frames") else max
            made[key] = merge(one[key] for one in said)
    return made


def film(
    path: Path,
    shots: int,
    seed: int,
    *,
    grain_levels: float = GRAIN,
    frames: int | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a film: each shot has a texture of its own, under a moving camera, with grain (standard deviation)."""
    import av
    import cv2

    random = np.random.default_rng(seed)
    width, height, margin = 1280, 720, 240
    grain = random.normal(0, grain_levels, (height + 64, width + 64, 1)).astype(np.float32)
    with av.open(str(path), "w") as container:
        how = {"crf": "20", "preset": "veryfast"} | (options or {})
        stream = container.add_stream("libx264", rate=FPS, options=how)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        number = count()
        for _ in range(shots):
            picture = np.zeros((height + margin, width + margin, 3), np.float32)
            for cells in (4, 16, 64, 240):
                coarse = random.normal(0, 1, (cells * 9 // 16, cells, 3)).astype(np.float32)
                picture += cv2.resize(coarse, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC) / np.log2(cells)
            picture = 128 + 70 * picture
            steps = frames or int(random.integers(72, 120))
            ends = random.integers(0, margin, (2, 2))
            for step in range(steps):
                left, top = np.round(ends[0] + (ends[1] - ends[0]) * step / steps).astype(int)
                x, y = random.integers(0, 64, 2)
                seen = picture[top : top + height, left : left + width] + grain[y : y + height, x : x + width]
                made = av.VideoFrame.from_ndarray(seen.clip(0, 255).astype(np.uint8), format="rgb24")
                made.pts, made.time_base = next(number), Fraction(1, FPS)
                container.mux(stream.encode(made))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    main()
