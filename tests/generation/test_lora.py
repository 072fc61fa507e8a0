"""LoRA put on a model to generate with: the same on every road, and part of the model's name."""

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

from mimir_ray.config import UserError
from mimir_ray.generation import checkpoint as loading
from mimir_ray.generation.batch import generate_batch
from mimir_ray.generation.config import GenerationConfig, Lora, RuntimeConfig
from mimir_ray.generation.generator import generate
from mimir_ray.generation.naming import located, model_name
from mimir_ray.generation.stages import Condition
from mimir_ray.model.pipeline import MimirPipeline
from mimir_ray.model.trained import save_trained
from tests.cli.command import mimir as command
from tests.tiny import frames_of, tiny_base

PROMPT = "a red circle moves left then up"
SIZE: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0}


def trained(checkpoint: str, seed: int = 1) -> MimirPipeline:
    """A Mimir with adapters and a token fuser that change much."""
    pipeline = MimirPipeline.from_pretrained(checkpoint)
    torch.manual_seed(seed)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    lora = peft.LoraConfig(r=4, lora_alpha=12, target_modules=targets, init_lora_weights=False)
    pipeline.transformer.add_adapter(lora)
    for parameter in pipeline.token_fuser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return pipeline


@pytest.fixture(scope="module")
def learnt(mimir: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `mimir export --adapter` writes."""
    folder = tmp_path_factory.mktemp("lora") / "learnt"
    save_trained(trained(mimir), folder)
    return str(folder)


@pytest.fixture(scope="module")
def file(mimir: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A LoRA of others."""
    folder = tmp_path_factory.mktemp("lora")
    pipeline = trained(mimir, seed=2)
    layers = peft.get_peft_model_state_dict(pipeline.transformer)
    MimirPipeline.save_lora_weights(folder, layers, transformer_lora_adapter_metadata={"r": 4, "lora_alpha": 12})
    return str(next(folder.glob("*.safetensors")).rename(folder / "style.safetensors"))


def change(config: GenerationConfig, *lora: Lora) -> GenerationConfig:
    return config.model_copy(update={"runtime": RuntimeConfig(cpu_threads=1, lora=lora)})


def of_stages(checkpoint: str, config: GenerationConfig) -> np.ndarray:
    asked = config.request(PROMPT, model="m", seed=7)
    encode, denoise, decode = (
        load(checkpoint, config.runtime)
        for load in (loading.load_encode_stage, loading.load_denoise_stage, loading.load_decode_stage)
    )
    condition = Condition.from_bytes(encode.encode(asked).to_bytes())
    state = denoise.start(asked, condition)
    while not state.finished:
        state = denoise.step(state, condition)
    frames: np.ndarray = decode.decode(state.latents)
    return frames


def of_generator(checkpoint: str, config: GenerationConfig) -> np.ndarray:
    generator = loading.load_generator(checkpoint, config.runtime)
    return generate(generator, config.request(PROMPT, model=generator.model, seed=7))


def test_what_was_learnt_makes_the_videos_that_it_was_learnt_for(
    mimir: str, learnt: str, config: GenerationConfig
) -> None:
    """Adapters and token fuser, put on the model that the training began with."""
    expected = frames_of(trained(mimir), PROMPT, seed=7, **SIZE)[0]
    fresh = MimirPipeline.from_pretrained(mimir)
    assert np.abs(frames_of(fresh, PROMPT, seed=7, **SIZE)[0].astype(int) - expected).mean() > 2
    fresh.load_lora_weights(learnt)
    assert np.array_equal(frames_of(fresh, PROMPT, seed=7, **SIZE)[0], expected)
    made = change(config, Lora(path=learnt))
    assert np.array_equal(of_generator(mimir, made), expected)
    assert np.array_equal(of_stages(mimir, made), expected)


def test_files_of_others_have_their_strengths(mimir: str, file: str, learnt: str, config: GenerationConfig) -> None:
    pipeline = MimirPipeline.from_pretrained(mimir)
    pipeline.load_lora_weights(file, adapter_name="style")
    for scale in (1.0, 0.5, -1.0):
        pipeline.set_adapters("style", scale)
        expected = frames_of(pipeline, PROMPT, seed=7, **SIZE)[0]
        asked = change(config, Lora(path=file, scale=scale))
        assert np.array_equal(of_generator(mimir, asked), expected)
        assert np.array_equal(of_stages(mimir, asked), expected)
    plain = of_generator(mimir, config)
    assert np.array_equal(of_generator(mimir, change(config, Lora(path=file, scale=0))), plain)
    pipeline.load_lora_weights(learnt, adapter_name="learnt")
    pipeline.set_adapters(["style", "learnt"], [0.5, 1.0])
    expected = frames_of(pipeline, PROMPT, seed=7, **SIZE)[0]
    both = change(config, Lora(path=file, scale=0.5), Lora(path=learnt))
    assert np.abs(of_generator(mimir, both).astype(int) - expected).max() <= 1  # they are added in another order


def test_a_fuser_trained_alone_needs_no_lora_file(mimir: str, config: GenerationConfig, tmp_path: Path) -> None:
    pipeline = trained(mimir)
    pipeline.transformer.unload_lora()
    save_trained(pipeline, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    expected = frames_of(pipeline, PROMPT, seed=7, **SIZE)[0]
    assert np.array_equal(of_stages(mimir, change(config, Lora(path=str(tmp_path)))), expected)
    assert np.array_equal(of_generator(mimir, change(config, Lora(path=str(tmp_path)))), expected)


def test_what_does_not_fit_is_refused(mimir: str, base: str, learnt: str, tmp_path: Path, config: Any) -> None:
    with pytest.raises(UserError, match="reads an LLM's tokens, and this model has no LLM: `mimir init`"):
        MimirPipeline.from_base(base).load_lora_weights(learnt)
    pipeline = MimirPipeline.from_pretrained(mimir)
    pipeline.token_fuser.register_to_config(llm_dim=48)
    with pytest.raises(UserError, match=r"for 28 tokens of width 32 .* width 24, and this model has .* width 48"):
        pipeline.load_lora_weights(learnt)
    offloaded = MimirPipeline.from_pretrained(mimir)
    offloaded.enable_model_cpu_offload(device="cpu")
    with pytest.raises(UserError, match="offloaded already"):
        offloaded.load_lora_weights(learnt)
    other = tiny_base(tmp_path / "other", num_attention_heads=3)
    lora = RuntimeConfig(cpu_threads=1, lora=(Lora(path=f"{learnt}/pytorch_lora_weights.safetensors"),))
    with pytest.raises(UserError, match="the file belongs to a model of another size"):
        loading.load_denoise_stage(str(other), lora)


def test_lora_is_part_of_the_name(mimir: str, file: str, learnt: str, tmp_path: Path) -> None:
    plain = model_name(mimir)
    names = [
        model_name(mimir, lora)
        for lora in (
            [Lora(path=file)],
            [Lora(path=file, scale=0.5)],
            [Lora(path=learnt)],
            [Lora(path=file), Lora(path=learnt)],
            [Lora(path="someone/style")],
        )
    ]
    assert len({plain, *names}) == 6
    assert all(name.startswith(f"{plain}+") for name in names)
    copy = tmp_path / "style.safetensors"
    copy.write_bytes(Path(file).read_bytes())
    assert model_name(mimir, [Lora(path=str(copy))]) == names[0]
    copy.write_bytes(copy.read_bytes()[:-1] + b"\x01")
    assert model_name(mimir, [Lora(path=str(copy))]) != names[0]
    copy.write_bytes(Path(file).read_bytes())
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 1}')
    assert model_name(mimir, [Lora(path=str(copy))]) != names[0]
    for nowhere in ("/nowhere.safetensors", "./nowhere", "nowhere"):
        with pytest.raises(UserError, match="no LoRA file at"):
            model_name(mimir, [Lora(path=nowhere)])


def test_videos_of_one_lora_are_not_taken_for_those_of_another(
    mimir: str, file: str, config: GenerationConfig, tmp_path: Path
) -> None:
    generate_batch([], mimir, str(tmp_path), change(config, Lora(path=file)))
    for other in (config, change(config, Lora(path=file, scale=0.5))):
        with pytest.raises(UserError, match="model"):
            generate_batch([], mimir, str(tmp_path), other)


def test_workers_find_what_is_named_from_here(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(file).parent)
    runtime = RuntimeConfig(lora=(Lora(path="style.safetensors"), Lora(path="someone/style", scale=0.5)))
    assert [one.path for one in located(runtime).lora] == [file, "someone/style"]
    assert located(runtime).lora[1].scale == 0.5


def test_the_command_line_names_them(mimir: str, file: str, config: GenerationConfig, tmp_path: Path) -> None:
    made = {}
    for name, options in {"plain": [], "half": ["--lora", f"{file}:0.5"], "whole": ["--lora", file]}.items():
        result = command("generate", PROMPT, "--model", mimir, "--out", str(tmp_path), "--steps", "1", *options)
        assert result.exit_code == 0, result.output
        made[name] = result.stdout.strip()
    assert len(set(made.values())) == 3
    assert len({Path(path).read_bytes() for path in made.values()}) == 3


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("style.safetensors:strong", "the strength after the colon is 'strong'; it must be a number"),
        ("./nowhere.safetensors:0.5", "there is no LoRA file at ./nowhere.safetensors"),
        ("style.safetensors:inf", "generation.runtime.lora.0.scale"),
    ],
)
def test_mistakes_on_the_command_line(given: str, told: str, mimir: str, tmp_path: Path) -> None:
    result = command("generate", PROMPT, "--model", mimir, "--out", str(tmp_path / "x.mp4"), "--lora", given)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
