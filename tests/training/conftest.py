"""The tiny world of these tests and, once a session, every run without Ray."""

from typing import Any

import pytest

from tests.tiny import tiny_base, tiny_llm
from tests.training.runs import EVERY, RESIZED, UNINTERRUPTED, World, run_without_ray
from tests.training.tables import write_tables


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("training")
    tiny_base(root / "base")
    tiny_llm(root / "llm")
    write_tables(root / "data", clips=24)
    return World(root)


@pytest.fixture(scope="session")
def runs(world: World) -> list[dict[str, Any]]:
    """What each of the two ranks found, by name of the run."""
    return run_without_ray(world, EVERY)


@pytest.fixture(scope="session")
def resized(world: World) -> list[dict[str, Any]]:
    """The same of the runs whose number of workers changes, or is uneven, and of one that is compiled."""
    return run_without_ray(world, RESIZED)


@pytest.fixture(scope="session")
def uninterrupted(world: World) -> dict[str, Any]:
    """What the first of two ranks found, by name of the run; those alone that runs on Ray are held against."""
    return run_without_ray(world, UNINTERRUPTED)[0]
