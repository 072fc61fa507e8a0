"""Shards are named by the bucket that their files fall into, so that a new shard finds those whose place it takes."""

import re
from collections import defaultdict
from collections.abc import Iterable

_NAMED = re.compile(r"(\d+)-.*")


def shard_name(bucket: int, content: str) -> str:
    """The name of the shard of a bucket, with the id of what is in it."""
    return f"{bucket:05d}-{content}"


def bucket_of(shard: str) -> int | None:
    """The bucket that a shard is named by; None in a name of another kind."""
    named = _NAMED.fullmatch(shard)
    return int(named[1]) if named else None


def find_predecessors(shards: Iterable[str], committed: Iterable[str]) -> dict[str, list[str]]:
    """The committed shards, for each of all `shards`, that may hold rows of the same files, and some that do not.

    A file's bucket is a number modulo a power of two, which grows with the corpus. So the files of two shards can be
    the same where their buckets are, modulo the smaller power. How many buckets there were when a shard was committed
    nobody knows; at least as many as its own needs.
    """
    shards = list(shards)
    buckets = max((_enough(bucket_of(shard)) for shard in shards), default=1)
    others: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for other in sorted(set(committed) - set(shards)):
        if (bucket := bucket_of(other)) is not None:
            modulus = min(buckets, _enough(bucket))
            others[modulus, bucket % modulus].append(other)
    moduli = sorted({modulus for modulus, _ in others})
    found: dict[str, list[str]] = {}
    for shard in shards:
        bucket = bucket_of(shard)
        alike = [] if bucket is None else [others.get((modulus, bucket % modulus), []) for modulus in moduli]
        found[shard] = [other for members in alike for other in members]
    return found


def _enough(bucket: int | None) -> int:
    """The least power of two that is more than a bucket."""
    return 1 << (bucket or 0).bit_length()
