"""A batch is a function of (seed, step): not of the number of workers, and not of where a run resumed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mimir_ray.config import UserError
from mimir_ray.storage import Table
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.batches import Batch, Batches, _choose
from mimir_ray.training.data.samples import open_data
from mimir_ray.training.data.source import Rows, StoredTables
from tests.tiny import LLM_DIM, TEXT_DIM, TEXT_LENGTH
from tests.training.tables import write_tables

CONFIG = TrainingConfig(steps=20, batch_size=8, learning_rate=1e-3, text_dropout=0.3, shuffle_shards=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tables(tmp_path_factory.mktemp("data"), clips=15)


def batches(root: str, config: TrainingConfig = CONFIG, decoder: bool = True, **place: Any) -> Batches:
    data = open_data(root, decoder, config.caption_weights)
    return Batches(data, config, scaling_factor=0.7, timesteps=1000, **{"text_length": TEXT_LENGTH} | place)


def tensors(batch: Batch) -> list[torch.Tensor]:
    tokens = batch.tokens
    states = [tokens.t5, tokens.llm, tokens.llm_mask, tokens.instruction]
    return [batch.latents, batch.noise, batch.timesteps, batch.keep, *states]


def assert_same(left: list[torch.Tensor], right: list[torch.Tensor]) -> None:
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one, other)


def test_shapes(root: str) -> None:
    batch = batches(root).batch(0)
    assert batch.latents.shape == batch.noise.shape == (8, 3, 16, 8, 8)
    assert batch.tokens.t5.shape == (8, TEXT_LENGTH, TEXT_DIM)
    assert batch.tokens.llm.shape == (8, TEXT_LENGTH, LLM_DIM)
    assert batch.tokens.instruction.shape == (8, 4, LLM_DIM)
    assert batch.timesteps.dtype == torch.int64
    assert batch.latents.dtype == torch.float32


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_workers_sees_the_same_global_batch(root: str, world: int) -> None:
    whole = batches(root)
    workers = [batches(root, rank=rank, world=world) for rank in range(world)]
    for step in range(5):
        parts = [worker.batch(step) for worker in workers]
        expected = whole.batch(step)
        assert sum((part.clip_ids for part in parts), ()) == expected.clip_ids
        joined = [torch.cat(tensor) for tensor in zip(*map(tensors, parts), strict=True)]
        assert_same(joined, tensors(expected))


def test_a_resumed_run_continues_at_the_right_row(root: str) -> None:
    whole = list(batches(root).ahead(0, 6))
    for expected, resumed in zip(whole[3:], batches(root).ahead(3, 6), strict=True):
        assert resumed.clip_ids == expected.clip_ids
        assert_same(tensors(resumed), tensors(expected))


def test_an_epoch_shows_every_clip_once(root: str) -> None:
    order = batches(root)  # 12 usable clips: two epochs are three batches of eight
    seen = [clip_id for step in range(3) for clip_id in order.clip_ids(step)]
    assert len(set(seen[:12])) == len(set(seen[12:])) == 12


def test_draws_differ_between_steps_and_cover_kinds_answers_and_dropout(root: str) -> None:
    drawn = list(batches(root).ahead(0, 20))
    keep = torch.cat([batch.keep for batch in drawn])
    assert 0.55 < keep.mean() < 0.85
    by_clip: dict[str, set[tuple[float, float]]] = {}
    for batch in drawn:
        for row, clip_id in enumerate(batch.clip_ids):
            length = int(batch.tokens.llm_mask[row].sum())
            by_clip.setdefault(clip_id, set()).add((float(batch.tokens.t5[row, 0, 0]), length))
    assert max(len(variants) for variants in by_clip.values()) == 4  # two captions with two answers each
    times = torch.cat([batch.timesteps for batch in drawn])
    assert len(times.unique()) > 120


def test_every_batch_has_one_shape_for_any_number_of_workers(tmp_path: Path) -> None:
    root = write_tables(tmp_path, clips=30, shapes=[(3, 16, 8, 8), (2, 16, 8, 12)])
    whole = batches(root)
    workers = [batches(root, rank=rank, world=2) for rank in range(2)]
    drawn = [whole.batch(step) for step in range(12)]
    assert {tuple(batch.latents.shape[1:]) for batch in drawn} == {(3, 16, 8, 8), (2, 16, 8, 12)}
    for step, expected in enumerate(drawn):
        parts = [worker.batch(step) for worker in workers]
        assert sum((part.clip_ids for part in parts), ()) == expected.clip_ids
        assert_same([torch.cat(tensor) for tensor in zip(*map(tensors, parts), strict=True)], tensors(expected))


@dataclass(frozen=True)
class Counted:
    """The tables, and a note of every group of rows that is read."""

    tables: StoredTables
    read: list[tuple[str, str, int]]

    def check(self, tables: Sequence[str]) -> dict[str, str]:
        return self.tables.check(tables)

    def shards(self) -> list[str]:
        return self.tables.shards()

    def open(self, table: str, shard: str) -> "CountedRows":
        return CountedRows(self.tables.open(table, shard), (table, shard), self.read)


@dataclass(frozen=True)
class CountedRows:
    rows: Rows
    name: tuple[str, str]
    log: list[tuple[str, str, int]]

    @property
    def starts(self) -> Sequence[int]:
        return self.rows.starts

    def read(self, columns: Sequence[str]) -> pa.Table:
        assert not {"moments", "states", "answers", "query_states", "instruction_states"} & set(columns)
        return self.rows.read(columns)

    def read_group(self, number: int, columns: Sequence[str]) -> pa.Table:
        self.log.append((*self.name, number))
        return self.rows.read_group(number, columns)


@pytest.fixture
def single_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Tables whose every row is a group of its own, as those of 480p are."""
    monkeypatch.setattr("mimir_ray.storage.shard.GROUP_BYTES", 1)
    return write_tables(tmp_path, clips=60, shards=6)


def counted(root: str, **fields: Any) -> tuple[Batches, list[tuple[str, str, int]]]:
    read: list[tuple[str, str, int]] = []
    config = CONFIG.model_copy(update=fields)
    data = open_data(root, True, config.caption_weights, Counted(StoredTables(root), read))
    return Batches(data, config, scaling_factor=0.7, timesteps=1000, text_length=TEXT_LENGTH), read


def test_each_row_is_read_once_an_epoch_and_nothing_else(single_rows: str) -> None:
    worker, read = counted(single_rows)  # 54 usable clips
    assert not read, "counting the samples reads no states"
    for step in range(6):
        worker.batch(step)
    assert Counter(table for table, _, _ in read) == {"latents": 48, "t5_tokens": 48, "llm_tokens": 48}
    assert len(set(read)) == len(read)


def test_a_run_that_resumes_reads_nothing_of_what_was_consumed(single_rows: str) -> None:
    whole, read = counted(single_rows)
    for step in range(3):
        whole.batch(step)
    consumed = set(read)
    resumed, read_again = counted(single_rows)
    list(resumed.ahead(3, 6))
    assert len(read_again) == 3 * 3 * CONFIG.batch_size
    assert not consumed & set(read_again)


def test_read_ahead_is_bounded(single_rows: str) -> None:
    worker, read = counted(single_rows, read_ahead=2)
    ahead = worker.ahead(0, 6)
    next(ahead)
    ahead.close()
    assert len(read) <= 3 * 3 * CONFIG.batch_size


@pytest.mark.parametrize("read_ahead", [1, 7])
def test_batches_come_in_order_however_many_are_made_at_a_time(root: str, read_ahead: int) -> None:
    worker = batches(root, CONFIG.model_copy(update={"read_ahead": read_ahead}))
    for step, batch in enumerate(worker.ahead(0, 5)):
        assert_same(tensors(batch), tensors(batches(root).batch(step)))
    assert list(worker.ahead(5, 5)) == []


def test_groups_of_small_rows_are_kept_within_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimir_ray.storage.shard.GROUP_BYTES", 2**15)
    root = write_tables(tmp_path, clips=60, shards=2)
    worker, read = counted(root)
    drawn = [worker.batch(step) for step in range(14)]
    assert len(read) == len(set(read)), "everything fits, so every group is read once"
    tight, read_again = counted(root)
    tight._reader._groups._limit = 2**17
    assert_same([batch.latents for batch in drawn], [tight.batch(step).latents for step in range(14)])
    assert len(read_again) > 2 * len(read)
    assert tight._reader._groups._weight <= 2**17


def test_shards_that_were_written_as_one_group_give_the_same_batches(single_rows: str, tmp_path: Path) -> None:
    expected = [tensors(batches(single_rows).batch(step)) for step in range(3)]
    for file in Path(single_rows).rglob("*.parquet"):
        pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)
        assert pq.read_metadata(file).num_row_groups == 1
    for step in range(3):
        assert_same(tensors(batches(single_rows).batch(step)), expected[step])


def test_a_shard_that_breaks_while_it_is_read_is_named(single_rows: str) -> None:
    worker = batches(single_rows)
    for file in Path(single_rows, "latents").glob("*.parquet"):
        content = bytearray(file.read_bytes())
        content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"(?s)cannot read shard shard-\d of .*latents .*remove shard-\d.parquet there"):
        list(worker.ahead(0, 6))


def test_tables_that_changed_under_a_run_are_noticed(single_rows: str) -> None:
    worker = batches(single_rows)
    for table in ("t5_tokens", "llm_tokens"):
        stored = Table(str(Path(single_rows, table)))
        for shard in stored.shards():
            stored.commit(shard, stored.read(shard).slice(4))
    with pytest.raises(UserError, match=r"had 9 usable clips when training began and has 7 now, or others"):
        worker.batch(0)


def test_the_t5_only_control_reads_no_llm_table(tmp_path: Path) -> None:
    root = write_tables(tmp_path, names=("latents", "t5_tokens"))
    batch = batches(root, decoder=False).batch(0)
    assert batch.tokens.llm.numel() == 0


def test_tokens_of_another_length_are_refused(root: str) -> None:
    with pytest.raises(UserError, match=r"holds 24 tokens a caption and the token fuser reads 226"):
        batches(root, text_length=226).batch(0)


def test_split_keeps_the_rows(root: str) -> None:
    batch = batches(root).batch(0)
    parts = batch.split(4)
    assert [len(part.clip_ids) for part in parts] == [2, 2, 2, 2]
    assert_same([torch.cat(tensor) for tensor in zip(*map(tensors, parts), strict=True)], tensors(batch))


def test_choose_follows_the_weights() -> None:
    assert [_choose([1.0, 3.0], place) for place in (0.0, 0.24, 0.26, 0.999)] == [0, 0, 1, 1]
    assert _choose([0.5, 0.5], 1.0) == 1
