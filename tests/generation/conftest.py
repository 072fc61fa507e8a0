"""One tiny Mimir checkpoint and base for the generation tests."""

import pytest

from mimir_ray.generation.config import GenerationConfig, RuntimeConfig
from tests.tiny import ONE_POINT_FIVE, tiny_base, tiny_mimir


@pytest.fixture(scope="session")
def mimir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_mimir(tmp_path_factory.mktemp("generation") / "mimir"))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_base(tmp_path_factory.mktemp("generation") / "base"))


@pytest.fixture(scope="session")
def base_15(tmp_path_factory: pytest.TempPathFactory) -> str:
    """CogVideoX 1.5 with the embedding that its image-to-video kin has."""
    path = tmp_path_factory.mktemp("generation") / "base_15"
    return str(tiny_base(path, rotary=True, dpm=True, **ONE_POINT_FIVE, ofs_embed_dim=16))


@pytest.fixture
def config() -> GenerationConfig:
    return GenerationConfig(
        num_frames=9,
        height=64,
        width=64,
        fps=8.0,
        num_inference_steps=3,
        guidance_scale=3.0,
        runtime=RuntimeConfig(cpu_threads=1),
    )
