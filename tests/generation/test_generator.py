"""A request means the same frames, whichever way the components were loaded."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mimir_ray.config import UserError
from mimir_ray.generation.checkpoint import (
    load_decode_stage,
    load_denoise_stage,
    load_encode_stage,
    load_generator,
)
from mimir_ray.generation.config import GenerationConfig, RuntimeConfig
from mimir_ray.generation.generator import generate, generate_timed
from mimir_ray.generation.naming import model_name
from mimir_ray.generation.stages import Condition
from mimir_ray.model.sampling import DenoiseState


@pytest.mark.parametrize("kind", ["mimir", "base", "base_15"])
def test_separate_stages_give_the_generators_frames(
    kind: str, request: pytest.FixtureRequest, config: GenerationConfig
) -> None:
    checkpoint = request.getfixturevalue(kind)
    generator = load_generator(checkpoint, config.runtime)
    asked = config.request("a red circle moves left then up", model=generator.model, seed=7)
    whole = generate(generator, asked)

    encode = load_encode_stage(checkpoint, config.runtime)
    denoise = load_denoise_stage(checkpoint, config.runtime)
    decode = load_decode_stage(checkpoint, config.runtime)
    condition = Condition.from_bytes(encode.encode(asked).to_bytes())
    state = denoise.start(asked, condition)
    while not state.finished:
        state = DenoiseState.from_bytes(denoise.step(state, condition).to_bytes())
    apart = decode.decode(state.latents)

    assert whole.shape == (9, 64, 64, 3)
    assert whole.dtype == np.uint8
    assert np.array_equal(whole, apart)


def test_the_pipelines_own_call_agrees(mimir: str, config: GenerationConfig) -> None:
    from mimir_ray.generation.checkpoint import load_pipeline
    from mimir_ray.generation.generator import Generator

    pipeline = load_pipeline(mimir, config.runtime)
    asked = config.request("a blue square", model="m", seed=3)
    called = pipeline(
        asked.prompt, num_frames=9, height=64, width=64, num_inference_steps=3, guidance_scale=3.0, seed=3
    )
    images = np.stack([np.asarray(image) for image in called.frames[0]])
    assert np.array_equal(generate(Generator(pipeline, "m"), asked), images)


def test_seed_and_prompt_matter_and_progress_is_reported(mimir: str, config: GenerationConfig) -> None:
    generator = load_generator(mimir, config.runtime)
    steps: list[tuple[int, int]] = []
    first, timings = generate_timed(
        generator,
        config.request("a red circle", model=generator.model),
        lambda done, total: steps.append((done, total)),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert min(timings.encode_s, timings.denoise_s, timings.decode_s) > 0
    assert np.array_equal(first, generate(generator, config.request("a red circle", model=generator.model)))
    assert not np.array_equal(first, generate(generator, config.request("a red circle", model=generator.model, seed=1)))
    assert not np.array_equal(first, generate(generator, config.request("a blue box", model=generator.model)))


def test_an_exception_from_on_step_cancels(mimir: str, config: GenerationConfig) -> None:
    generator = load_generator(mimir, config.runtime)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(generator, config.request("a red circle", model=generator.model), stop)


def test_what_the_model_cannot_make_is_refused_with_a_remedy(mimir: str, config: GenerationConfig) -> None:
    generator = load_generator(mimir, config.runtime)
    with pytest.raises(UserError, match="9 or 17"):
        generator.encode(config.model_copy(update={"num_frames": 13}).request("a ball", model="m"))
    with pytest.raises(UserError, match="shorten"):
        generator.encode(config.request("red " * 100, model="m"))


def test_a_model_is_named_by_its_content(mimir: str, tmp_path: Path) -> None:
    copy = tmp_path / "mimir"
    shutil.copytree(mimir, copy)
    assert model_name(str(copy)) == model_name(mimir)
    weights = next(copy.glob("transformer/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert model_name(str(copy)) != model_name(mimir)
    assert model_name("zai-org/CogVideoX-2b") == "zai-org/CogVideoX-2b"


@pytest.mark.parametrize("checkpoint", ["/nowhere/at/all", "./nowhere", "nowhere"])
def test_no_checkpoint(checkpoint: str) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        model_name(checkpoint)


def test_an_empty_directory_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model_index\.json"):
        model_name(str(tmp_path))


def test_cuda_without_a_gpu(mimir: str) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="auto"):
        load_generator(mimir, RuntimeConfig(device="cuda"))
