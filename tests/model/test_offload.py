"""diffusers' offloading reaches every part; the CPU stands for the GPU, and no memory at all for the CPU."""

from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from accelerate.utils import set_module_tensor_to_device

from mimir_ray.generation.config import GenerationConfig
from mimir_ray.generation.generator import Generator, generate
from mimir_ray.model.latents import encode_moments
from mimir_ray.model.pipeline import MimirPipeline
from tests.model.conftest import PROMPTS
from tests.tiny import frames_of

SHORT: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Model offloading whose weights are nowhere until their hook has run; the classes of the parts in that order."""
    kept: dict[int, dict[str, torch.Tensor]] = {}
    order: list[str] = []

    def leave(_: Any, module: torch.nn.Module) -> torch.nn.Module:
        tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        if not any(tensor.is_meta for _, tensor in tensors):
            kept[id(module)] = {name: tensor.detach() for name, tensor in tensors}
        return module.to("meta")

    def come(_: Any, module: torch.nn.Module) -> torch.nn.Module:
        for name, tensor in kept[id(module)].items():
            set_module_tensor_to_device(module, name, "cpu", value=tensor)
        return module

    def wake(hook: Any, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if hook.prev_module_hook is not None:
            hook.prev_module_hook.offload()
        if next(module.parameters()).is_meta:
            order.append(type(module).__name__)
            come(hook, module)
        return args, kwargs

    for name, method in {"init_hook": leave, "pre_forward": wake, "detach_hook": come}.items():
        monkeypatch.setattr(accelerate.hooks.CpuOffload, name, method)
    return order


@pytest.fixture(autouse=True)
def one_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers says cpu:0, to which torch moves a parameter as a plain tensor that accelerate cannot put back."""
    original = accelerate.cpu_offload
    monkeypatch.setattr(accelerate, "cpu_offload", lambda part, _, **rest: original(part, torch.device("cpu"), **rest))


def frames(pipeline: Any) -> np.ndarray:
    return frames_of(pipeline, PROMPTS, seed=[1, 2], **SHORT)


def test_model_offload_wakes_every_part_in_its_turn(mimir: Path, woken: list[str]) -> None:
    pipeline = MimirPipeline.from_pretrained(mimir)
    expected = frames(pipeline)
    pipeline.enable_model_cpu_offload(device="cpu")
    for _ in range(2):  # the second call begins where the first one left everything
        assert np.array_equal(frames(pipeline), expected)
        parts = ["T5EncoderModel", "Phi3ForCausalLM", "TokenFuser", "CogVideoXTransformer3DModel"]
        assert woken == [*parts, "AutoencoderKLCogVideoX"]
        woken.clear()


def test_sequential_offload_reaches_every_layer(mimir: Path) -> None:
    pipeline = MimirPipeline.from_pretrained(mimir)
    expected = frames(pipeline)
    pipeline.enable_sequential_cpu_offload(device="cpu")
    assert all(parameter.is_meta for parameter in pipeline.token_fuser.parameters())
    assert np.array_equal(frames(pipeline), expected)


@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_a_base_alone_can_be_offloaded(base_2b: Path, woken: list[str], kind: str) -> None:
    pipeline = MimirPipeline.from_base(base_2b)
    expected = frames(pipeline)
    getattr(pipeline, f"enable_{kind}_cpu_offload")(device="cpu")
    assert np.array_equal(frames(pipeline), expected)


@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_the_stages_of_a_generation_compute_where_the_hooks_say(mimir: Path, woken: list[str], kind: str) -> None:
    config = GenerationConfig(num_frames=9, height=64, width=64, fps=8, **SHORT)
    request = config.request(PROMPTS[0], model="m", seed=3)
    pipeline = MimirPipeline.from_pretrained(mimir)
    expected = generate(Generator(pipeline, "m"), request)
    getattr(pipeline, f"enable_{kind}_cpu_offload")(device="cpu")
    assert np.array_equal(generate(Generator(pipeline, "m"), request), expected)


@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_an_llms_states_and_a_vaes_moments_alone_wake_them_too(mimir: Path, woken: list[str], kind: str) -> None:
    pipeline = MimirPipeline.from_pretrained(mimir)
    clip = np.random.default_rng(0).integers(0, 256, (1, 9, 64, 64, 3), np.uint8)
    asked = (PROMPTS, [[7, 8, 5], [9, 5]])
    queries, answers = pipeline.llm_branch.states(*asked)
    moments = encode_moments(pipeline.vae, clip)
    getattr(pipeline, f"enable_{kind}_cpu_offload")(device="cpu")
    again = pipeline.llm_branch.states(*asked)
    assert all(torch.equal(*pair) for pair in zip([*queries, *answers], [*again[0], *again[1]], strict=True))
    assert torch.equal(encode_moments(pipeline.vae, clip), moments)
