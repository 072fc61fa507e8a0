"""A bounded memory that several threads share."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mimir_ray.training.data.cache import Cache


def test_what_was_used_last_stays_within_the_limit() -> None:
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return name

    cache: Cache[str] = Cache(5, lambda value: None if value == "alone" else len(value))
    for name in ("aa", "bb", "aa", "cc", "aa"):
        assert cache.get(name, lambda name=name: make(name)) == name
    assert made == ["aa", "bb", "cc"]
    for name in ("too large", "alone", "aa", "cc", "bb", "alone"):
        cache.get(name, lambda name=name: make(name))
    assert made == ["aa", "bb", "cc", "too large", "alone", "bb", "alone"], "what is not kept drives nothing out"


def test_threads_that_ask_for_the_same_wait_for_one() -> None:
    calls: list[int] = []
    release = threading.Event()
    cache: Cache[int] = Cache(1, lambda _: 1)

    def make() -> int:
        calls.append(1)
        release.wait(10)
        return 7

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(cache.get, "key", make) for _ in range(8)]
        release.set()
        assert [future.result() for future in asked] == [7] * 8
    assert len(calls) == 1


def test_an_error_is_raised_and_forgotten() -> None:
    cache: Cache[int] = Cache(1, lambda _: 1)

    def fail() -> int:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.get("key", fail)
    assert cache.get("key", lambda: 3) == 3
