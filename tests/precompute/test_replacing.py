"""Tables that are made anew under another configuration: nothing goes before what takes its place is there."""

import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mimir_ray.config import UserError, override
from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute import precompute
from mimir_ray.precompute.keys import table_keys
from mimir_ray.records import SCHEMAS
from mimir_ray.storage import Table
from tests.precompute.world import CONFIG, commit, copy_of, curated, file_of, precompute_whole, rows_of, tiny_model

TABLES = ("latents", "t5_tokens", "llm_tokens")
SHARDS = ("shard-0", "shard-1", "shard-2")
OTHER = override(CONFIG, ["answers=1"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def finished(model: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = curated(tmp_path_factory.mktemp("finished") / "data")
    precompute_whole(root, model)
    return root


def files(data: Path) -> dict[str, bytes]:
    """All that the tables consist of, but for when a run has looked at them."""
    return {
        str(path.relative_to(data)): re.sub(rb'"began_unix_s": [0-9.]+', b"", path.read_bytes())
        for name in TABLES
        for path in sorted((data / name).iterdir())
        if path.name != "_lengths.json"
    }


def answers(data: Path, shard: str) -> set[int]:
    rows = Table(str(data / "llm_tokens")).read(shard).to_pylist()
    return {len(row["answers"]) for row in rows if row["status"] == "ok"}


class Stopped(Exception):
    pass


def stop(done: int, shards: int) -> None:
    raise Stopped


@pytest.fixture
def stopped(finished: Path, model: ModelConfig, tmp_path: Path) -> Path:
    """An overwrite that was stopped when the first shard was replaced."""
    data = copy_of(finished, tmp_path)
    with pytest.raises(Stopped):
        precompute_whole(data, model, OTHER, overwrite=True, progress=stop)
    assert [answers(data, shard) for shard in SHARDS] == [{1}, {2}, {2}]
    return data


def test_a_model_that_cannot_be_loaded_destroys_nothing(finished: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = copy_of(finished, tmp_path)
    broken = Path(shutil.copytree(str(model.llm), tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"cut off")
    before = files(data)
    with pytest.raises(Exception, match=r"(?i)header|safetensors"):
        precompute_whole(data, model.model_copy(update={"llm": str(broken)}), CONFIG, overwrite=True)
    assert files(data) == before
    assert all(Table(str(data / name)).manifest() for name in TABLES), "training still reads them"
    assert precompute_whole(data, model).rows_tried == dict.fromkeys(TABLES, 0)


@pytest.mark.usefixtures("ray_session")
def test_a_cluster_without_room_destroys_nothing(finished: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = copy_of(finished, tmp_path)
    before = files(data)
    with pytest.raises(UserError, match=r"precompute needs .* 1 GPU .*: set precompute.llm_tokens.num_gpus=0 to comp"):
        precompute(str(data), model, override(OTHER, ["llm_tokens.num_gpus=1"]), overwrite=True)
    assert files(data) == before


def test_a_stopped_overwrite_is_gone_on_with(stopped: Path, model: ModelConfig, tmp_path: Path) -> None:
    """Without the option too: what it may replace has been said."""
    done, latents = file_of(stopped, "llm_tokens", "shard-0"), file_of(stopped, "latents", "shard-1")
    assert Table(str(stopped / "llm_tokens")).manifest() is None, "half of it is of either configuration"
    summary = precompute_whole(stopped, model, OTHER)
    assert summary.rows_tried == {"latents": 0, "t5_tokens": 0, "llm_tokens": 12}
    assert [answers(stopped, shard) for shard in SHARDS] == [{1}] * 3
    assert (file_of(stopped, "llm_tokens", "shard-0"), file_of(stopped, "latents", "shard-1")) == (done, latents)
    assert precompute_whole(stopped, model, OTHER).rows_tried == dict.fromkeys(TABLES, 0)


def test_a_stopped_overwrite_can_be_taken_back(finished: Path, stopped: Path, model: ModelConfig) -> None:
    with pytest.raises(UserError, match=r"overwrite that was stopped has replaced 1 of its 3 shards.*--overwrite"):
        precompute_whole(stopped, model, CONFIG)
    summary = precompute_whole(stopped, model, CONFIG, overwrite=True)
    assert summary.rows_tried == {"latents": 0, "t5_tokens": 0, "llm_tokens": 4}, "of the one shard that was replaced"
    assert rows_of(stopped, "llm_tokens") == rows_of(finished, "llm_tokens")
    assert precompute_whole(stopped, model).rows_tried == dict.fromkeys(TABLES, 0)


def test_what_was_all_taken_back_already_is_finished_as_it_is(
    finished: Path, stopped: Path, model: ModelConfig
) -> None:
    for shard in SHARDS:
        shutil.copy(finished / "llm_tokens" / f"{shard}.parquet", stopped / "llm_tokens")
    assert precompute_whole(stopped, model, CONFIG, overwrite=True).rows_tried == dict.fromkeys(TABLES, 0)
    manifest = Table(str(stopped / "llm_tokens")).manifest()
    assert manifest is not None
    assert manifest.config["answers"] == 2


def test_shards_of_a_mimir_that_marked_none_are_replaced_too(
    finished: Path, model: ModelConfig, tmp_path: Path
) -> None:
    data = copy_of(finished, tmp_path)
    table = Table(str(data / "llm_tokens"))
    for shard in SHARDS:
        table.commit(shard, table.read(shard))
    with pytest.raises(Stopped):
        precompute_whole(data, model, OTHER, overwrite=True, progress=stop)
    precompute_whole(data, model, OTHER)
    assert [answers(data, shard) for shard in SHARDS] == [{1}] * 3


def test_rows_of_another_configuration_never_come_back(finished: Path, model: ModelConfig, tmp_path: Path) -> None:
    """Where the corpus changes while its tables are being replaced, shards get other names and inherit rows."""
    data = copy_of(finished, tmp_path)
    with pytest.raises(Stopped):
        precompute_whole(data, model, override(OTHER, ["seed=7"]), overwrite=True, progress=stop)
    first = {"clips": Table(str(data / "clips")), "captions": Table(str(data / "captions"))}
    for name, table in first.items():
        rows = {shard: table.read(shard).to_pylist() for shard in SHARDS[1:]}
        table.drop(SHARDS)
        commit(data, name, {f"0000{i}-{shard}": made for i, (shard, made) in enumerate(rows.items())})
    precompute_whole(data, model, override(OTHER, ["seed=7"]))
    made = [row for row in rows_of(data, "llm_tokens") if row["status"] == "ok"]
    assert {tuple(answer["seed"] for answer in row["answers"]) for row in made} == {(7,)}


def test_an_empty_corpus_is_of_the_configuration_that_it_was_overwritten_with(
    finished: Path, model: ModelConfig, tmp_path: Path
) -> None:
    data = copy_of(finished, tmp_path)
    nothing: dict[str, list[dict[str, Any]]] = {}
    for name in ("clips", "captions"):
        Table(str(data / name)).drop(SHARDS)
        commit(data, name, nothing)
    summary = precompute_whole(data, model, OTHER, overwrite=True)
    assert summary.tables["llm_tokens"].config == table_keys(model, OTHER)["llm_tokens"].model_dump(mode="json")
    assert Table(str(data / "llm_tokens")).shards() == []


def test_a_stamp_is_of_the_rows_and_of_the_configuration(tmp_path: Path, model: ModelConfig) -> None:
    keys, table = table_keys(model, CONFIG), Table(str(tmp_path / "latents"))
    assert table.stamp(keys["latents"]) != table.stamp(table_keys(model, override(CONFIG, ["sample_fps=2"]))["latents"])
    assert table.stamp(keys["latents"]) != Table(table.uri, version=99).stamp(keys["latents"])
    rows = pa.Table.from_pylist([], schema=SCHEMAS["latents"])
    table.commit("a", rows, "mark")
    table.commit("b", rows)
    assert (table.open("a").stamp, table.open("b").stamp) == ("mark", "")
