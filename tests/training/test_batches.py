"""A batch is a function of (seed, step): not of the number of workers, and not of where a run resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mimir_ray.config import UserError
from mimir_ray.training.batches import Batch, Batches, _choose
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.tables import open_data
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
