"""The index of a batch: a row for each line, and only what is new is looked up."""

import json
from pathlib import Path
from typing import Any

import pytest

from mimir_ray.config import Config
from mimir_ray.generation.actors import generation_row
from mimir_ray.generation.config import GenerationConfig
from mimir_ray.generation.index import INDEX_FILE, forget_index, write_index
from mimir_ray.storage import Table, content_id, join, read_bytes


class Identity(Config):
    model: str = "m"


@pytest.fixture(params=["local", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path)
    return join(request.getfixturevalue("s3"), content_id(request.node.nodeid))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Shards that were read."""
    shards: list[str] = []
    whole = Table.read

    def reading(self: Table, shard: str, columns: Any = None) -> Any:
        shards.append(shard)
        return whole(self, shard, columns)

    monkeypatch.setattr(Table, "read", reading)
    return shards


def made(out: str, config: GenerationConfig, prompts: str, failed: str = "", relative: bool = True) -> list[str]:
    table, ids = Table(join(out, "generations")), []
    for prompt in prompts:
        request = config.request(prompt, "m")
        name = join("videos", f"{request.request_id}.mp4")
        path = None if prompt in failed else name if relative else join(out, name)
        status = {"status": "quarantined", "reason": "no luck"} if prompt in failed else {"status": "ok", "reason": ""}
        table.commit(request.request_id, generation_row(request, path=path, **status))
        ids.append(request.request_id)
    return ids


def index(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_bytes(join(out, INDEX_FILE)).decode().split("\n") if line]


@pytest.mark.parametrize("relative", [True, False])
def test_every_line_has_a_row_in_the_order_of_the_list(out: str, config: GenerationConfig, relative: bool) -> None:
    table = Table(join(out, "generations"))
    a, b, c = made(out, config, "ab\u2028", failed="b", relative=relative)
    assert write_index(table, [(1, c), (3, b), (4, a), (9, c)]) == join(out, INDEX_FILE)
    rows = index(out)
    assert [(row["line"], row["prompt"], row["status"], row["reason"]) for row in rows] == [
        *((1, "\u2028", "ok", ""), (3, "b", "quarantined", "no luck"), (4, "a", "ok", ""), (9, "\u2028", "ok", ""))
    ]
    assert [row["file"] for row in rows] == [f"videos/{c}.mp4", None, f"videos/{a}.mp4", f"videos/{c}.mp4"]


def test_only_what_is_new_is_read_and_written(
    out: str, config: GenerationConfig, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(join(out, "generations"))
    a, b, c = made(out, config, "abc", failed="b")
    write_index(table, [(1, a), (2, b)])
    read.clear()
    write_index(table, [(1, a), (2, b), (3, c)])
    assert sorted(read) == sorted([b, c]), "b failed, and may have been mended"
    made(out, config, "b")
    write_index(table, [(1, a), (2, b), (3, c)])
    assert [row["status"] for row in index(out)] == ["ok", "ok", "ok"]
    read.clear()
    monkeypatch.delattr("mimir_ray.generation.index.write_bytes")
    write_index(table, [(1, a), (2, b), (3, c)])
    assert read == []


def test_an_index_that_is_broken_or_of_another_table_is_not_believed(tmp_path: Path, config: GenerationConfig) -> None:
    table = Table(str(tmp_path / "generations"))
    table.begin(Identity())
    (a,) = made(str(tmp_path), config, "a")
    index_file = tmp_path / INDEX_FILE
    for broken in ('{"file": "videos/a', "[]\n7\nnull\n", json.dumps({"request_id": a, "status": "ok"}), "\xff\n"):
        index_file.write_bytes(broken.encode("latin-1"))
        write_index(table, [(1, a)])
        assert [row["prompt"] for row in index(str(tmp_path))] == ["a"]
    forget_index(table)
    assert index_file.stat().st_size > 0
    table.begin(Identity(model="another"), overwrite=True)
    forget_index(table)
    made(str(tmp_path), config, "a", failed="a")
    write_index(table, [(1, a)])
    assert [row["status"] for row in index(str(tmp_path))] == ["quarantined"]
