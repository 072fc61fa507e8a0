"""Shards are named by the bucket that their files fall into, so that a new shard finds those whose place it takes."""

import re
from collections import defaultdict
from collections.abc import Iterable

_NAMED = re.compile(r"(\d+)-.*")


def shard_name(bucket: int, content: str) -> str:
    """The name of the shard of a bucket, with the id of what is in it."""
    return f"{bucket:05d}-{content}"


def predecessors(shards: Iterable[str], committed: Iterable[str]) -> dict[str, list[str]]:
    """For each of `shards` the other committed ones that may hold rows of the same files.

    A file's bucket is a number modulo a power of two, which grows with the corpus. So the files of two shards can be
    the same where their buckets are, modulo the smaller power.
    """
    shards = list(shards)
    others = sorted(set(committed) - set(shards))
    buckets = min(_buckets(shards), _buckets(others))
    alike: defaultdict[int, list[str]] = defaultdict(list)
    for other in others:
        if (bucket := _bucket(other)) is not None:
            alike[bucket % buckets].append(other)
    return {shard: [] if (bucket := _bucket(shard)) is None else alike[bucket % buckets] for shard in shards}


def _bucket(shard: str) -> int | None:
    """None in a name of another kind."""
    named = _NAMED.fullmatch(shard)
    return int(named[1]) if named else None


def _buckets(shards: Iterable[str]) -> int:
    """The least power of two that is more than each bucket."""
    return int(2 ** max((_bucket(shard) or 0).bit_length() for shard in [*shards, ""]))
