"""Workers and drivers die in the middle of a precompute, and it grows: no row is lost, doubled or another one."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mimir_ray.config import to_yaml
from mimir_ray.dataflow import ActorPool
from mimir_ray.model.config import LanguageConfig, ModelConfig
from mimir_ray.precompute import PrecomputeConfig, PrecomputeSummary, precompute
from mimir_ray.storage import Table
from mimir_ray.video import write_mp4
from tests.precompute.world import (
    CONFIG,
    OK,
    clip_row,
    commit,
    curated,
    encode_here,
    moving_square,
    rows_of,
    tiny_model,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

TABLES = ("latents", "t5_tokens", "llm_tokens")
WORKERS = """
def strike():
    workers = [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [""])[0].startswith("ray::Map")]
    mine = [p for p in workers if os.environ["RAY_TMPDIR"] in " ".join(p.environ().values())]
    for worker in mine:
        worker.kill()
    return mine
"""
DRIVER = """
def strike():
    os.kill(os.getpid(), signal.SIGKILL)
"""
NOTHING = """
def strike():
    return ["nothing"]
"""
SCRIPT = """
import os, signal, sys, threading, time
import psutil, ray
from mimir_ray.config import from_yaml
from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute import PrecomputeConfig, precompute
from mimir_ray.storage import Table, join

data, model, config = sys.argv[1:]
ray.init(
    address="local", num_cpus=2, include_dashboard=False, object_store_memory=10**8,
    log_to_driver=False, configure_logging=False,
)
%s
struck = []
def watch():  # a thread: the driver hears of a shard some time after it is done
    while not struck:
        if len(Table(join(data, "t5_tokens")).shards()) >= 2:
            struck.extend(strike())
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
summary = precompute(data, from_yaml(ModelConfig, model), from_yaml(PrecomputeConfig, config))
assert struck, "all was done before anything was struck"
print(summary.model_dump_json())
"""


def run(strike: str, data: Path, model: ModelConfig, ray_files: Path) -> subprocess.CompletedProcess[str]:
    (ray_files / "ray").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT % strike, str(data), to_yaml(model), to_yaml(CONFIG)],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"RAY_TMPDIR": str(ray_files)},
    )


def tables(data: Path) -> dict[str, list[dict[str, Any]]]:
    """Every row, in order."""
    return {name: rows_of(data, name) for name in TABLES}


@pytest.mark.parametrize("strike", [WORKERS, DRIVER], ids=["workers", "driver"])
def test_what_dies_in_the_middle_changes_nothing_in_the_end(
    strike: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = tiny_model(tmp_path / "model")
    struck = curated(tmp_path / "struck", shards=10, clips_per_shard=4)
    whole = tmp_path / "whole"
    whole.mkdir()
    for name in ("clips", "captions"):
        (whole / name).symlink_to(struck / name)
    process = run(strike, struck, model, tmp_path_factory.mktemp("r"))
    if strike is DRIVER:
        assert process.returncode == -signal.SIGKILL, process.stderr[-4000:]
        there = {name: len(rows_of(struck, name)) for name in TABLES}
        assert 0 < there["llm_tokens"] + there["t5_tokens"] < 160
        process = run(NOTHING, struck, model, tmp_path_factory.mktemp("r"))
        again = PrecomputeSummary.model_validate_json(process.stdout.splitlines()[-1]).rows_encoded
        assert again["t5_tokens"] <= 78 - 14  # two shards were committed, one of them with a broken clip
    assert process.returncode == 0, process.stderr[-4000:]
    encode_here(whole, model, CONFIG)
    assert tables(struck) == tables(whole)


def test_ten_thousand_clips(tmp_path: Path) -> None:
    """All is real and small: decoding, VAE, T5 and LLM; a clip in a thousand cannot be read."""
    model = tiny_model(tmp_path / "model").model_copy(update={"language": LanguageConfig(max_new_tokens=1)})
    video = tmp_path / "one.mp4"
    write_mp4(video, moving_square(1, frames=2)[:, :16, :16], fps=8.0)
    config = PrecomputeConfig(
        num_frames=1,
        height=16,
        width=16,
        clips_per_shard=512,
        least_psnr_db=None,
        latents=ActorPool(batch=64),
        t5_tokens=ActorPool(batch=256),
        llm_tokens=ActorPool(batch=256),
    )
    ms_per_row = {}
    for count in (2_000, 10_000):
        data = tmp_path / str(count)
        clips = [f"clip-{index:05d}" for index in range(count)]
        shards = {f"{start // 100:05d}-x": clips[start : start + 100] for start in range(0, count, 100)}
        there = {clip: video if index % 1000 else tmp_path / "gone.mp4" for index, clip in enumerate(clips)}
        commit(data, "clips", {s: [clip_row(c, there[c], frames=1) | OK for c in names] for s, names in shards.items()})
        captions = {
            shard: [{"clip_id": clip, "kind": "short", "text": f"red ball {clip}"} | OK for clip in names]
            for shard, names in shards.items()
        }
        commit(data, "captions", captions)
        summary = precompute(str(data), model, config)
        for name in TABLES:
            manifest = summary.tables[name]
            assert (manifest.inputs, manifest.ok, manifest.quarantined) == (count, count - count // 1000, count // 1000)
            ids = [clip for rows in Table(str(data / name)).scan(["clip_id"]) for clip in rows["clip_id"].to_pylist()]
            assert sorted(ids) == clips
        ms_per_row[count] = 1000 * sum(summary.busy_s.values()) / count
    assert ms_per_row[10_000] < 1.5 * ms_per_row[2_000], ms_per_row
