"""Which shards may hold rows of the files of others."""

from mimir_ray.storage import find_predecessors, shard_name

ZERO, ONE, TWO, THREE = (shard_name(bucket, "new") for bucket in range(4))
OLD_ZERO, OLD_ONE, OLD_TWO, OLD_THREE = (shard_name(bucket, "old") for bucket in range(4))


def test_a_shard_takes_the_place_of_the_one_of_its_bucket() -> None:
    found = find_predecessors([OLD_ZERO, ONE], [OLD_ZERO, OLD_ONE])
    assert found == {OLD_ZERO: [], ONE: [OLD_ONE]}
    assert find_predecessors([ZERO], []) == {ZERO: []}


def test_buckets_that_were_split_or_joined_find_each_other() -> None:
    """And bucket 0, which may have been the only one."""
    split = find_predecessors([ZERO, ONE, TWO, THREE], [OLD_ZERO, OLD_ONE])
    assert split == {ZERO: [OLD_ZERO], TWO: [OLD_ZERO], ONE: [OLD_ZERO, OLD_ONE], THREE: [OLD_ZERO, OLD_ONE]}
    joined = find_predecessors([ZERO, ONE], [OLD_ZERO, OLD_ONE, OLD_TWO, OLD_THREE])
    assert joined == {ZERO: [OLD_ZERO, OLD_TWO], ONE: [OLD_ZERO, OLD_ONE, OLD_THREE]}


def test_shards_of_a_run_that_was_killed_hide_none_of_those_before_them() -> None:
    """Two buckets became four, of which only the last was committed before a file joined it."""
    third, again = shard_name(3, "killed"), shard_name(3, "again")
    found = find_predecessors([ZERO, ONE, TWO, again], [OLD_ZERO, OLD_ONE, third])
    assert found == {
        ZERO: [OLD_ZERO],
        ONE: [OLD_ZERO, OLD_ONE],
        TWO: [OLD_ZERO],
        again: [OLD_ZERO, OLD_ONE, third],
    }


def test_names_of_another_kind_take_no_place() -> None:
    assert find_predecessors([ZERO, "mine"], ["theirs", OLD_ZERO]) == {ZERO: [OLD_ZERO], "mine": []}
