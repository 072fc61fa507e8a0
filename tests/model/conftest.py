"""Tiny checkpoints, saved once for the tests of the model."""

from pathlib import Path

import pytest
import torch

from mimir_ray.model.tokens import TextTokens
from tests.tiny import LLM_DIM, ONE_POINT_FIVE, TEXT_DIM, TEXT_LENGTH, tiny_base, tiny_llm, tiny_mimir

STYLES = ["2b", "5b", "15"]
PROMPTS = ["a red circle moves left then up", "the crimson ball is above a blue box"]


@pytest.fixture(scope="session")
def base_2b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("model") / "base_2b")


@pytest.fixture(scope="session")
def base_5b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("model") / "base_5b", rotary=True, dpm=True)


@pytest.fixture(scope="session")
def base_15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("model") / "base_15", rotary=True, dpm=True, **ONE_POINT_FIVE)


@pytest.fixture
def base(style: str, request: pytest.FixtureRequest) -> Path:
    """The base of the test's ``style``: 2b, 5b or 15."""
    path: Path = request.getfixturevalue(f"base_{style}")
    return path


@pytest.fixture(scope="session")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llm(tmp_path_factory.mktemp("model") / "llm")


@pytest.fixture(scope="session")
def mimir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mimir(tmp_path_factory.mktemp("model") / "mimir")


@pytest.fixture
def tokens() -> TextTokens:
    """Random tokens of two prompts: one LLM row fills 11 positions, the other 7."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return TextTokens.collate(
        random(2, TEXT_LENGTH, TEXT_DIM),
        [random(4, LLM_DIM), random(5, LLM_DIM)],
        [random(7, LLM_DIM), random(2, LLM_DIM)],
        random(2, 4, LLM_DIM),
    )
