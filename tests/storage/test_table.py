"""Shard tables on every file system: configurations that differ, kills, and rows lost or doubled."""

import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimir_ray.config import Config, UserError, fingerprint
from mimir_ray.records import VERSIONS
from mimir_ray.storage import (
    READERS,
    AccountingError,
    Table,
    ahead,
    filesystem,
    join,
    read_json,
    write_json,
)


class Settings(Config):
    limit: float = 0.5


def captions(*rows: tuple[str, str, str]) -> pa.Table:
    return pa.table(
        {
            "clip_id": [row[0] for row in rows],
            "kind": ["long"] * len(rows),
            "text": ["a red circle"] * len(rows),
            "clip_score": pa.nulls(len(rows), pa.float64()),
            "rule": [""] * len(rows),
            "status": [row[1] for row in rows],
            "reason": [row[2] for row in rows],
        }
    )


OK = captions(("a", "ok", ""), ("b", "ok", ""))


def test_a_stage_from_begin_to_finish(root: str) -> None:
    table = Table(join(root, "captions"))
    assert table.name == "captions"
    assert table.shards() == []
    assert table.manifest() is None
    table.begin(Settings())
    assert table.pending(["s2", "s1", "s3"]) == ["s2", "s1", "s3"]
    table.commit("s2", captions(("c", "rejected", "too dark"), ("d", "quarantined", "not a video")))
    table.commit("s1", OK)
    assert table.shards() == ["s1", "s2"]
    assert table.pending(["s2", "s3", "s1"]) == ["s3"]
    assert table.manifest() is None
    assert [part["clip_id"].to_pylist() for part in table.scan(["clip_id"])] == [["a", "b"], ["c", "d"]]
    assert table.read("s1").equals(OK.cast(table.read("s1").schema))

    manifest = table.finish(inputs=4)
    assert manifest == table.manifest()
    assert (manifest.inputs, manifest.ok, manifest.rejected, manifest.quarantined, manifest.shards) == (4, 2, 1, 1, 2)
    assert manifest.reasons == {"not a video": 1, "too dark": 1}
    assert manifest.fingerprint == fingerprint(Settings())

    table.begin(Settings())
    assert table.finish(inputs=4) == manifest, "finishing a finished table changes nothing, its seconds included"


def test_a_table_of_no_rows_finishes(root: str) -> None:
    table = Table(join(root, "captions"))
    table.begin(Settings())
    table.commit("empty", captions())
    assert table.finish(inputs=0).shards == 1


def test_another_configuration_is_refused_and_named(root: str) -> None:
    table = Table(join(root, "captions"))
    table.begin(Settings())
    table.commit("s1", OK)
    with pytest.raises(UserError) as caught:
        table.begin(Settings(limit=1))
    for part in (table.uri, "limit was 0.5 and is now 1.0", "--overwrite to replace its 1 shards", "another --out"):
        assert part in str(caught.value)
    assert table.shards() == ["s1"]
    table.begin(Settings(limit=1), overwrite=True)
    assert table.shards() == []
    table.begin(Settings(limit=1))


@pytest.mark.parametrize("name", VERSIONS)
def test_every_table_has_a_version_of_its_own(tmp_path: Path, name: str) -> None:
    Table(join(tmp_path, name)).begin(Settings())
    run = read_json(tmp_path / name / "_run.json")
    assert run["schema_version"] == VERSIONS[name]
    for other in set(VERSIONS) - {name}:
        Table(join(tmp_path, other)).begin(Settings())
    for version in (VERSIONS[name] - 1, VERSIONS[name] + 1):
        Table(join(tmp_path, name), version=version).begin(Settings(), overwrite=True)
        told = f"holds version {version} of the table {name}, and this mimir makes version {VERSIONS[name]}. "
        remedy = "Pass --overwrite to replace its 0 shards, choose another --out, or "
        with pytest.raises(UserError, match=told + remedy):
            Table(join(tmp_path, name)).begin(Settings())


def test_a_table_of_before_whose_version_is_the_same_is_taken_over(tmp_path: Path) -> None:
    table = Table(join(tmp_path, "captions"))
    table.begin(Settings())
    run = read_json(tmp_path / "captions" / "_run.json")
    assert run.pop("columns") == table.schema.names
    write_json(tmp_path / "captions" / "_run.json", run)
    table.commit("s1", OK)
    table.begin(Settings())
    assert table.shards() == ["s1"]


def test_other_columns_are_refused_until_overwrite(tmp_path: Path) -> None:
    few = pa.schema([("n", pa.int32()), ("old", pa.int32()), ("status", pa.string()), ("reason", pa.string())])
    more = few.remove(1).append(pa.field("score", pa.float64()))
    before, table = Table(join(tmp_path, "numbers"), few, 4), Table(join(tmp_path, "numbers"), more, 4)
    before.begin(Settings())
    before.commit("s1", pa.table({"n": [1], "old": [2], "status": ["ok"], "reason": [""]}))
    with pytest.raises(UserError, match=r"table numbers, of version 4, with other columns: score is new, old is gone"):
        table.begin(Settings())
    table.begin(Settings(), overwrite=True)
    assert table.shards() == []
    assert table.finish(0).schema_version == 4


def test_shards_of_unknown_origin_are_refused(tmp_path: Path) -> None:
    table = Table(join(tmp_path, "captions"))
    table.commit("s1", OK)
    with pytest.raises(UserError, match="holds 1 shards of unknown configuration"):
        table.begin(Settings())


def test_begin_clears_what_a_kill_left_behind(tmp_path: Path) -> None:
    table = Table(join(tmp_path, "captions"))
    table.begin(Settings())
    leftover = tmp_path / "captions" / ".s1.parquet.0123456789ab.tmp"
    leftover.write_bytes(b"PAR1 half a shard")
    assert table.shards() == []
    table.begin(Settings())
    assert not leftover.exists()


def test_lost_and_doubled_rows_raise(root: str) -> None:
    table = Table(join(root, "captions"))
    table.begin(Settings())
    table.commit("s1", OK)
    for inputs in (1, 3):
        with pytest.raises(
            AccountingError, match=f"{inputs} inputs but 2 ok . 0 rejected . 0 quarantined = 2 rows in 1 shards"
        ):
            table.finish(inputs)
    assert table.manifest() is None
    table.finish(2)
    with pytest.raises(AccountingError):
        table.finish(3)


def test_a_changed_set_of_shards_is_not_finished(root: str) -> None:
    table = Table(join(root, "captions"))
    table.begin(Settings())
    table.commit("s1", OK)
    table.commit("s2", OK)
    table.finish(4)
    table.drop(["s1", "never-there"])
    assert table.shards() == ["s2"]
    table.commit("s3", captions(("c", "rejected", "too dark")))
    assert table.manifest() is None, "as many shards as before, but not the same ones"
    assert table.finish(3).rejected == 1
    system, path = filesystem(join(table.uri, "s3.parquet"))
    system.delete_file(path)
    table.commit("s4", captions(("d", "ok", "")))
    assert table.manifest() is None, "nor where somebody else has removed one"


def test_a_shard_that_was_dropped_and_comes_back_is_counted_anew(root: str) -> None:
    table = Table(join(root, "captions"))
    table.begin(Settings())
    table.commit("s1", OK)
    assert table.finish(2).ok == 2
    table.drop(["s1"])
    table.commit("s1", captions(("c", "rejected", "too dark"), ("d", "ok", "")))
    assert table.manifest() is None
    assert table.finish(2).rejected == 1


def test_reasons_without_end_are_bounded(tmp_path: Path) -> None:
    table = Table(join(tmp_path, "captions"))
    table.begin(Settings())
    table.commit("s1", captions(*[(str(n), "quarantined", f"frame {n} of the file is damaged") for n in range(500)]))
    manifest = table.finish(500)
    assert len(manifest.reasons) == 201
    assert sum(manifest.reasons.values()) == 500
    assert manifest.reasons["(other)"] == 300


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (captions(("a", "failed", "x")), r"status \['failed'\]; it must be one of ok, rejected, quarantined"),
        (captions(("a", "ok", "slow")), "an ok row has an empty reason"),
        (captions(("a", "ok", ""), ("b", "rejected", "")), "'b'.*every other row has one"),
        (captions(("a", "ok", "")).drop_columns("text"), r"missing columns \['text'\]"),
        (captions(("a", "ok", "")).append_column("extra", [[1]]), r"unknown columns \['extra'\]"),
        (captions((None, "ok", "")), "1 rows have no clip_id"),  # type: ignore[arg-type]
        (captions(("a", None, "")), "1 rows have no status"),  # type: ignore[arg-type]
        (captions(("a", "ok", None)), "1 rows have no reason"),  # type: ignore[arg-type]
        (captions(("a", "ok", "")).set_column(2, "text", [[b"\xff\xfe"]]), "shard s1 of captions"),
    ],
)
def test_rows_that_break_the_schema_are_not_committed(tmp_path: Path, rows: pa.Table, told: str) -> None:
    table = Table(join(tmp_path, "captions"))
    with pytest.raises(ValueError, match=told):
        table.commit("s1", rows)
    assert table.shards() == []


def test_only_lossless_casts_are_made(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int32()), ("status", pa.string()), ("reason", pa.string())])
    table = Table(join(tmp_path, "numbers"), schema)

    def rows(value: Any) -> pa.Table:
        return pa.table({"reason": [""], "status": ["ok"], "n": [value]})

    table.commit("s1", rows(7))
    assert table.read("s1").schema.equals(schema), "columns are put in the schema's order and types"
    for value in (2**40, 7.5):
        with pytest.raises(ValueError, match="shard s2 of numbers"):
            table.commit("s2", rows(value))
    with pytest.raises(ValueError, match="numbers is no known table; give it a schema"):
        Table(join(tmp_path, "numbers")).commit("s3", rows(1))


@pytest.mark.parametrize("shard", ["", "a/b", "../a", ".hidden", "_run", "a b", "a\n", "é"])
def test_names_that_could_leave_the_table_are_refused(tmp_path: Path, shard: str) -> None:
    table = Table(join(tmp_path, "captions"))
    for act in (lambda: table.commit(shard, OK), lambda: table.read(shard), lambda: table.pending([shard])):
        with pytest.raises(ValueError, match="cannot name a shard"):
            act()


STATES = pa.schema(
    [
        ("clip_id", pa.string()),
        ("states", pa.large_binary()),
        ("answers", pa.list_(pa.struct([("seed", pa.int64()), ("states", pa.large_binary())]))),
        ("shape", pa.list_(pa.int32())),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)


def states(rows: int, size: int) -> pa.Table:
    generator = np.random.default_rng(rows)
    return pa.Table.from_pylist(
        [
            {
                "clip_id": f"clip{row}",
                "states": generator.bytes(size),
                "answers": [{"seed": seed, "states": generator.bytes(8)} for seed in range(row % 3)],
                "shape": [row, 4],
                "status": "rejected" if row % 5 == 4 else "ok",
                "reason": "too short" if row % 5 == 4 else "",
            }
            for row in range(rows)
        ],
        STATES,
    )


@pytest.mark.parametrize(("rows", "size", "groups"), [(0, 0, 1), (300, 100, 1), (50, 500_000, 7), (3, 5 * 2**20, 3)])
def test_rows_lie_in_groups_of_four_mib_or_one_row(root: str, rows: int, size: int, groups: int) -> None:
    table, expected = Table(join(root, "states"), STATES), states(rows, size)
    table.commit("s1", expected)
    assert table.read("s1").equals(expected)
    shard = table.open("s1")
    assert len(shard.starts) == groups
    assert shard.read(["states", "clip_id"]).equals(expected.select(["states", "clip_id"]))
    assert shard.read(["status", "shape"]).equals(expected.select(["status", "shape"]))
    for number, (first, after) in enumerate(pairwise([*shard.starts, rows])):
        part = shard.read_group(number, ["clip_id", "answers"])
        assert part.equals(expected.slice(first, after - first).select(["clip_id", "answers"]))


def test_some_rows_are_taken_from_the_groups_that_they_lie_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, expected = Table(join(tmp_path, "states"), STATES), states(50, 500_000)
    table.commit("s1", expected)
    shard, read = table.open("s1"), []
    whole = shard.read_group
    monkeypatch.setattr(
        type(shard), "read_group", lambda _, number, columns: read.append(number) or whole(number, columns)
    )
    for rows in ([0], [3, 4, 49], list(range(50))):
        read.clear()
        assert shard.take(rows).equals(expected.take(rows))
        assert read == sorted({sum(start <= row for start in shard.starts) - 1 for row in rows})


def test_arrays_are_stored_as_they_are_and_everything_else_is_compressed(tmp_path: Path) -> None:
    table = Table(join(tmp_path, "states"), STATES)
    table.commit("s1", states(8, 1000))
    group = pq.read_metadata(tmp_path / "states" / "s1.parquet").row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    codecs = {column.path_in_schema: column.compression for column in columns}
    arrays = {"states", "answers.list.element.states"}
    assert {path for path, codec in codecs.items() if codec == "UNCOMPRESSED"} == arrays
    assert {codec for path, codec in codecs.items() if path not in arrays} == {"ZSTD"}


def test_what_names_the_rows_is_read_without_the_rows(tmp_path: Path) -> None:
    table, expected = Table(join(tmp_path, "states"), STATES), states(8, 2**21)
    table.commit("s1", expected)
    shard = table.open("s1")
    file = tmp_path / "states" / "s1.parquet"
    assert shard._footer.serialized_size < 2**15
    file.unlink()
    assert shard.read(["clip_id", "status", "reason"]).equals(expected.select(["clip_id", "status", "reason"]))
    with pytest.raises(FileNotFoundError):
        shard.read(["clip_id", "states"])


def test_a_shard_that_was_written_as_one_group_is_read(tmp_path: Path) -> None:
    expected = states(12, 2**20)
    (tmp_path / "states").mkdir()
    pq.write_table(expected, tmp_path / "states" / "s1.parquet", compression="zstd")
    shard = Table(join(tmp_path, "states")).open("s1")
    assert shard.starts == (0,)
    assert shard.read(["clip_id"]).equals(expected.select(["clip_id"]))
    assert shard.read_group(0, ["states"]).equals(expected.select(["states"]))


def test_shards_are_read_ahead_in_order_and_no_more_of_them_than_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, lock, now, most, begun = Table(join(tmp_path, "captions")), threading.Lock(), 0, 0, 0
    names = [f"s{number:03d}" for number in range(3 * READERS)]
    for name in names:
        table.commit(name, captions((name, "ok", "")))
    read = Table.read

    def slow(self: Table, shard: str, columns: Any = None) -> pa.Table:
        nonlocal now, most, begun
        with lock:
            now, begun = now + 1, begun + 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1
        return read(self, shard, columns)

    monkeypatch.setattr(Table, "read", slow)
    parts = table.scan(["clip_id"])
    assert next(parts)["clip_id"].to_pylist() == names[:1]
    assert begun <= READERS + 1, "what nobody has asked for is not read"
    assert [part["clip_id"][0].as_py() for part in parts] == names[1:]
    assert 4 < most <= READERS
    table.drop(names)
    assert table.shards() == []


def test_what_fails_ahead_is_raised_at_its_turn() -> None:
    results = ahead(lambda n: 1 // n, [2, 1, 0, 1])
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(ahead(str, [])) == []


def test_a_missing_shard_is_a_missing_file(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        Table(join(root, "captions")).read("s1")


def test_strangers_in_the_directory_are_no_shards(tmp_path: Path) -> None:
    table = Table(join(tmp_path, "captions"))
    table.commit("s1", OK)
    for name in ("notes.txt", ".s2.parquet.tmp", "_s3.parquet"):
        (tmp_path / "captions" / name).write_bytes(b"x")
    (tmp_path / "captions" / "s4.parquet").mkdir()
    assert table.shards() == ["s1"]


COMMITTER = """
import sys
import pyarrow as pa
from mimir_ray.storage import Table
table = Table(sys.argv[1])
print("ready", flush=True)
for shard in range(10**9):
    ids = [f"{shard}-{row}" for row in range(20000)]
    blank = [""] * len(ids)
    texts = {"clip_id": ids, "kind": blank, "text": ids, "rule": blank, "status": ["ok"] * len(ids), "reason": blank}
    table.commit(f"s{shard}", pa.table(texts | {"clip_score": pa.nulls(len(ids), pa.float64())}))
"""


def test_a_killed_stage_continues_with_what_is_pending(tmp_path: Path) -> None:
    table = Table(join(tmp_path, "captions"))
    table.begin(Settings())
    with subprocess.Popen([sys.executable, "-c", COMMITTER, table.uri], stdout=subprocess.PIPE) as stage:
        assert stage.stdout is not None
        stage.stdout.readline()
        while len(table.shards()) < 3:
            assert stage.poll() is None, "the stage ended by itself"
            time.sleep(0.002)
        stage.send_signal(signal.SIGKILL)
    done = table.shards()
    expected = [f"s{number}" for number in range(len(done) + 2)]
    table.begin(Settings())
    assert table.pending(expected) == expected[-2:], "every shard before the kill is whole and stays"
    for shard in table.pending(expected):
        table.commit(shard, captions((shard, "ok", "")))
    assert table.finish(20000 * len(done) + 2).ok == 20000 * len(done) + 2
