"""The order of samples is a function of (seed, epoch)."""

from mimir_ray.training.order import Position, SampleOrder

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
