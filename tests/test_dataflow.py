"""What the Ray Data pipelines share, where their own tests do not reach it."""

import logging
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mimir_ray import dataflow
from mimir_ray.dataflow import Row, run, through_engine
from tests.cli.command import run_python

if TYPE_CHECKING:
    from ray.data import Dataset

ROWS, FATAL = 8, 5
PAYLOAD = b"\0" * 2**18


def asking(shard: Row, marks: str) -> Iterator[Row]:
    """A shard's rows; the first time that the second shard asks, its task dies when the first of them have arrived."""
    died = Path(marks, "died")
    for index in range(ROWS):
        if shard["shard"] == "b" and index == FATAL and not died.exists():
            while not Path(marks, "arrived").exists():
                time.sleep(0.05)
            died.touch()
            os._exit(1)
        yield {"shard": shard["shard"], "index": index, "payload": PAYLOAD, "error": ""}


class Collector:
    """Returns a shard when it has seen all of its rows."""

    def __init__(self, marks: str) -> None:
        self._arrived = Path(marks, "arrived")
        self._seen: dict[str, set[int]] = {}

    def __call__(self, row: Row) -> Row | None:
        seen = self._seen.setdefault(row["shard"], set())
        seen.add(row["index"])
        if row["shard"] == "b":
            self._arrived.touch()
        return {"shard": row["shard"], "seen": sorted(seen)} if len(seen) == ROWS else None


def twice(row: Row) -> list[Row]:
    return [row, row]


def repeating(rows: "Dataset") -> "Dataset":
    """An engine."""
    return rows.flat_map(twice)


def passing(rows: "Dataset") -> "Dataset":
    """Another one."""
    return rows


@pytest.mark.parametrize("died", [True, False], ids=["the task dies once", "rows come twice"])
def test_a_shard_loses_no_row_to_an_engine_and_comes_back_once(ray_session: None, tmp_path: Path, died: bool) -> None:
    import ray.data

    if not died:
        (tmp_path / "died").touch()
    names = ["a", "b", "c"]
    shards = ray.data.from_items([{"shard": name} for name in names], override_num_blocks=len(names))
    engine, ask = passing if died else repeating, partial(asking, marks=str(tmp_path))
    collector = partial(Collector, str(tmp_path))
    collected = through_engine(shards, "test", engine, ask, collector, num_cpus=0.5, max_retries=2)
    collected.context.target_max_block_size = 2**20  # so that rows leave a task before it ends
    rows = list(run(collected))
    assert (tmp_path / "died").exists()
    assert sorted((row["shard"], row["seen"]) for row in rows) == [(name, list(range(ROWS))) for name in names]


def test_what_is_printed_aside_comes_back_without_the_remark(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])  # a verb before may have left its own
    caplog.set_level(logging.DEBUG, "mimir_ray")
    remark = b"E 1 1] core_worker.cc:1: Actor 'x' " + dataflow._REMARK + b". If the arguments are lost ...\n"

    def print_and_fail() -> None:
        with dataflow._remark_aside():
            os.write(2, b"the raylet is gone\n" + remark + b"and without an end")
            raise RuntimeError("no such luck")

    with pytest.raises(RuntimeError, match="no such luck"):
        print_and_fail()
    os.write(2, b"; what comes later\n")
    assert capfd.readouterr().err == "the raylet is gone\nand without an end; what comes later\n"
    assert [message for message in caplog.messages if "Actor 'x'" in message]


PIPELINE = """
from functools import partial
from mimir_ray.cli.ray_cluster import connect
from mimir_ray.dataflow import map_actors, run

connect()
import ray.data
rows = ray.data.from_items([{"n": 1}, {"n": 2}], override_num_blocks=2)
load = partial(partial, lambda row: {"n": row["n"] + 1})
options = {"actors": (1, 1), "num_cpus": 0.5, "num_gpus": 0.0}
rows = map_actors(map_actors(rows, "first", load, **options), "second", load, **options)
print(sorted(row["n"] for row in run(rows)))
"""


@pytest.mark.slow
def test_pools_of_actors_leave_no_error_on_the_terminal() -> None:
    done = run_python("-c", PIPELINE, timeout_s=300)
    assert (done.stdout, done.stderr) == ("[3, 4]\n", "")
