"""The order of samples is a function of (seed, epoch)."""

from collections import Counter

import pytest

from mimir_ray.training.data.order import BatchOrder, Position, SampleOrder

COUNTS = {"a": 5, "b": 0, "c": 3, "d": 7}


def epoch(order: SampleOrder, number: int) -> list[Position]:
    return [order[number * len(order) + place] for place in range(len(order))]


def test_every_epoch_shows_every_sample_once_in_another_order() -> None:
    order = SampleOrder(COUNTS, seed=3, window=2)
    everything = {Position(shard, row) for shard, count in COUNTS.items() for row in range(count)}
    first, second = epoch(order, 0), epoch(order, 1)
    assert len(first) == len(order) == 15
    assert set(first) == set(second) == everything
    assert first != second


def test_the_order_depends_on_the_seed_and_not_on_how_it_is_asked() -> None:
    expected = epoch(SampleOrder(COUNTS, 3, 2), 1)
    backwards = SampleOrder(dict(reversed(COUNTS.items())), 3, 2)
    assert [backwards[15 + place] for place in reversed(range(15))][::-1] == expected
    assert epoch(SampleOrder(COUNTS, 4, 2), 1) != expected


def test_rows_are_mixed_within_a_window_of_shards_only() -> None:
    order = SampleOrder({f"s{i}": 10 for i in range(6)}, seed=0, window=2)
    shards = [position.shard for position in epoch(order, 0)]
    for start in range(0, 60, 20):
        assert len(set(shards[start : start + 20])) == 2
    assert shards[:20] != sorted(shards[:20])


def test_the_order_stays_what_it_was() -> None:
    order = SampleOrder(COUNTS, seed=3, window=2)
    shown = [f"{position.shard}{position.row}" for position in map(order.__getitem__, range(30))]
    assert shown[:15] == ["a1", "c1", "a0", "c0", "a4", "a2", "a3", "c2", "d0", "d6", "d5", "d2", "d3", "d1", "d4"]
    assert shown[15:] == ["a1", "c1", "c0", "a4", "a3", "c2", "a2", "a0", "d0", "d1", "d2", "d6", "d4", "d5", "d3"]


SMALL, WIDE, LONG = (3, 16, 8, 8), (3, 16, 8, 16), (5, 16, 8, 8)
BUCKETS = {SMALL: {"a": 9, "b": 8}, WIDE: {"a": 4, "c": 5}, LONG: {"c": 2}}


def steps_of(order: BatchOrder, count: int, batch: int = 4) -> list[tuple[tuple[int, ...], list[Position]]]:
    return [order.batch(step, range(batch)) for step in range(count)]


def test_one_bucket_gives_the_order_of_its_samples() -> None:
    samples, order = SampleOrder(COUNTS, 3, 2), BatchOrder({SMALL: COUNTS}, 3, 2, 4)
    expected = [samples[index] for index in range(40 * 4)]
    assert [position for _, positions in steps_of(order, 40) for position in positions] == expected


def test_each_bucket_shows_its_samples_pass_by_pass_in_its_share_of_the_steps() -> None:
    order = BatchOrder(BUCKETS, seed=1, window=2, batch_size=4)
    steps = steps_of(order, 28 * 5)  # 28 samples: 4 epochs are 28 steps
    for epochs in range(4, 21, 4):
        turns = Counter(shape for shape, _ in steps[: epochs * 7])
        assert turns == {SMALL: epochs * 17 // 4, WIDE: epochs * 9 // 4, LONG: epochs * 2 // 4}
    for shape, counts in BUCKETS.items():
        shown = [position for taken, positions in steps if taken == shape for position in positions]
        everything = {Position(shard, row) for shard, count in counts.items() for row in range(count)}
        for start in range(0, len(shown) - len(everything) + 1, len(everything)):
            assert set(shown[start : start + len(everything)]) == everything
    assert [shape for shape, _ in steps[:28]] != sorted(shape for shape, _ in steps[:28])
    assert [shape for shape, _ in steps[:28]] != [shape for shape, _ in steps[28:56]]


def test_any_step_can_be_asked_for_and_any_part_of_it() -> None:
    expected = steps_of(BatchOrder(BUCKETS, 1, 2, 4), 200)
    again = BatchOrder(dict(reversed(BUCKETS.items())), 1, 2, 4)
    assert [again.batch(step, range(4)) for step in reversed(range(200))][::-1] == expected
    for step, (shape, positions) in enumerate(expected):
        assert BatchOrder(BUCKETS, 1, 2, 4).batch(step, [2, 3]) == (shape, positions[2:])
    assert steps_of(BatchOrder(BUCKETS, 2, 2, 4), 200) != expected


@pytest.mark.parametrize("batch", [3, 64, 1000])
def test_buckets_of_fewer_samples_than_a_batch_take_turns_in_proportion(batch: int) -> None:
    steps = steps_of(BatchOrder(BUCKETS, 0, 2, batch), 280, batch)
    turns = Counter(shape for shape, _ in steps)
    for shape, counts in BUCKETS.items():
        assert abs(turns[shape] - 280 * sum(counts.values()) / 28) <= 3
    shown = Counter(position for shape, positions in steps for position in positions if shape == LONG)
    assert max(shown.values()) - min(shown.values()) <= 1
