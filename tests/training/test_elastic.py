"""A run loses a machine, goes on with the other, and takes the new one in when it comes."""

import json
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from mimir_ray.config import to_yaml
from mimir_ray.training.reporting.metrics import read_metrics
from tests.training.runs import World, config, plain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPT = """
import json, os, sys, threading
import ray
from ray.cluster_utils import Cluster
from mimir_ray.config import from_yaml
from mimir_ray.model.config import ModelConfig
from mimir_ray.training import TrainingConfig, train

data, out, model, config = sys.argv[1:]
node = {"num_cpus": 1, "object_store_memory": 10**8}
cluster = Cluster(initialize_head=True, head_node_args=node)
second = cluster.add_node(**node)
ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
seen, going, alone, together = [], threading.Event(), threading.Event(), threading.Event()
def watch(row):
    seen.append(row["workers"])
    if row["step"] >= 100:
        going.set()
    if row["workers"] == 1:
        alone.set()
    elif alone.is_set() and seen[-5:] == [2] * 5:
        together.set()
def run():
    train(data, out, from_yaml(ModelConfig, model), from_yaml(TrainingConfig, config), on_metrics=watch)
threading.Thread(target=run, daemon=True).start()  # nodes are added in the main thread only
assert going.wait(240)
cluster.remove_node(second, allow_graceful=False)
assert alone.wait(240)
cluster.add_node(**node)
assert together.wait(240)
print(json.dumps(seen), flush=True)
os._exit(0)  # the run, of which enough was seen, is still at it; with this process Ray's reapers end the nodes
"""


def test_a_machine_goes_and_another_comes(
    world: World, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = config(steps=1_000_000, min_workers=1, resize_check_s=2, log_every=20, checkpoint_every=100, ema_decay=0)
    ray_files = tmp_path_factory.mktemp("r")
    (ray_files / "ray").mkdir()
    out = tmp_path / "out"
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, world.data, str(out), to_yaml(world.model), to_yaml(made)],
        capture_output=True,
        text=True,
        timeout=850,
        env=os.environ | {"RAY_TMPDIR": str(ray_files), "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5"},
    )
    assert process.returncode == 0, process.stderr[-4000:]
    seen = json.loads(process.stdout.splitlines()[-1])
    assert [workers for workers, _ in groupby(seen)] == [2, 1, 2]
    rows = read_metrics(f"{out}/metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(20, rows[-1]["step"] + 1, 20))
    expected = plain(world, made, 20).losses
    assert rows[0]["loss"] == pytest.approx(sum(loss or 0 for loss in expected) / 20, abs=1e-5)
