"""Workers, nodes and drivers die in the middle of a curation; what it comes to is the same, row by row."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mimir_ray.config import override, to_yaml
from mimir_ray.curation import CurationConfig, curate
from mimir_ray.curation.tables import outcome_table, rows_of
from tests.curation.rendering import moving, save

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

CONFIG = override(CurationConfig(), ["split=off", "files_per_shard=2", "cpus_per_task=1"])

KILL_WORKERS = """
def strike():
    workers = [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [""])[0].startswith("ray::Map")]
    mine = [p for p in workers if os.environ["RAY_TMPDIR"] in " ".join(p.environ().values())]
    for worker in mine:
        worker.kill()
    return mine
"""
REMOVE_NODE = """
def strike():
    cluster.remove_node(second, allow_graceful=False)
    return [second]
"""
SCRIPT = """
import os, sys, threading, time
import psutil, ray
from ray.cluster_utils import Cluster
from mimir_ray.config import from_yaml
from mimir_ray.curation import CurationConfig, curate
from mimir_ray.curation.tables import outcome_table

source, out, config = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8})
second = cluster.add_node(num_cpus=1, object_store_memory=10**8)
ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
%s
struck = []
def watch():  # a thread: the driver hears of a shard some time after it is done
    while not struck:
        if len(outcome_table(out, "clips").shards()) >= 3:
            struck.extend(strike())
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
summary = curate([source], out, from_yaml(CurationConfig, config))
assert struck, "all was done before anything was struck"
print("shards", summary.shards, "inputs", summary.files.inputs)
ray.shutdown()
cluster.shutdown()
"""


def tables(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Every row of the outcome, in order."""
    found = {}
    for name in ("videos", "clips", "captions"):
        table = outcome_table(str(out), name)
        found[name] = [row for shard in table.shards() for row in rows_of(table, shard)]
    return found


@pytest.mark.parametrize("strike", [KILL_WORKERS, REMOVE_NODE], ids=["worker", "node"])
def test_what_dies_in_the_middle_changes_nothing_in_the_end(
    strike: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = tmp_path / "in"
    for index in range(40):
        save(source / f"{index}.mp4", moving(40 if index % 5 == 0 else 65, background=60 + 4 * index))
    (source / "damaged.mp4").write_bytes((source / "7.mp4").read_bytes()[:1000])
    ray_files = tmp_path_factory.mktemp("r")
    (ray_files / "ray").mkdir()
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT % strike, str(source), str(tmp_path / "struck"), to_yaml(CONFIG)],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"RAY_TMPDIR": str(ray_files)},
    )
    assert process.returncode == 0, process.stderr[-4000:]
    curate([str(source)], str(tmp_path / "whole"), CONFIG)
    assert tables(tmp_path / "struck") == tables(tmp_path / "whole")
