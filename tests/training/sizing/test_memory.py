"""What a run is said to need, against what torch and DeepSpeed allocate."""

import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from diffusers import CogVideoXTransformer3DModel
from peft import LoraConfig
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mimir_ray.config import UserError, from_dict
from mimir_ray.model.config import ModelConfig
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.sizing import memory
from mimir_ray.training.sizing.memory import Sizes, activation_bytes, estimate_memory, read_sizes
from tests.model.test_real_shapes import PARAMETERS
from tests.tiny import tiny_base, tiny_llm, tiny_mimir, tiny_transformer
from tests.training.sizing import memory_runs
from tests.training.sizing.published import LATENTS, published

LATENT = (3, 16, 24, 24)
TEXT = 24


def config(**fields: Any) -> TrainingConfig:
    return TrainingConfig(**({"steps": 1, "batch_size": 1, "learning_rate": 1e-4} | fields))


class Live(TorchDispatchMode):
    """Counts the bytes of every storage that torch makes, until it is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, tuple[Any, int]] = {}

    def _gone(self, place: int) -> None:
        self.now -= self._known.pop(place)[1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                place = storage._cdata
                if place not in self._known and place not in given:  # in-place results and views are not new
                    self._known[place] = weakref.ref(storage, lambda _, at=place: self._gone(at)), storage.nbytes()
                    self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        return result


def transformer(layers: int, *, rotary: bool) -> CogVideoXTransformer3DModel:
    torch.manual_seed(0)
    return CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=64,
        num_layers=layers,
        time_embed_dim=64,
        text_embed_dim=64,
        sample_height=LATENT[2],
        sample_width=LATENT[3],
        sample_frames=9,
        max_text_seq_length=TEXT,
        use_rotary_positional_embeddings=rotary,
    ).train()


def sizes_of(model: CogVideoXTransformer3DModel) -> Sizes:
    linears = tuple(
        (name, layer.in_features + layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    )
    return Sizes(dict(model.config), sum(p.numel() for p in model.parameters()), 0, linears, TEXT)


def adapt(model: CogVideoXTransformer3DModel, made: TrainingConfig) -> None:
    model.requires_grad_(made.train == "full")
    if made.train == "lora":
        targets = list(made.lora.targets)
        model.add_adapter(LoraConfig(r=made.lora.rank, lora_alpha=made.lora.alpha, target_modules=targets))


def measured_activations(model: CogVideoXTransformer3DModel, made: TrainingConfig) -> int:
    """Peak bytes of a forward and a backward pass beside weights and their gradients."""
    adapt(model, made)
    dtype = torch.float32 if made.precision == "fp32" else torch.bfloat16
    model.to(dtype)
    if made.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    frames, channels, height, width = LATENT
    noisy = torch.randn(made.batch_size, frames, channels, height, width, dtype=dtype)
    condition = torch.randn(made.batch_size, TEXT, 64, dtype=dtype, requires_grad=True)  # it has a fuser before it
    rotary = None
    if model.config.use_rotary_positional_embeddings:
        rotary = (torch.randn(frames * height * width // 4, 64),) * 2
    with Live() as live:
        (predicted,) = model(
            hidden_states=noisy,
            encoder_hidden_states=condition,
            timestep=torch.full((made.batch_size,), 500),
            image_rotary_emb=rotary,
            return_dict=False,
        )
        predicted.float().square().mean().backward()
    return live.peak


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("diffusers").setLevel(logging.ERROR)


EVERY_LINEAR = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize(
    ("layers", "rotary", "fields"),
    [
        (3, False, {}),
        (6, True, {"precision": "bf16"}),
        (3, True, {"precision": "bf16", "batch_size": 2}),
        (6, False, {"train": "fuser"}),
        (3, True, {"train": "fuser", "precision": "bf16"}),
        (4, False, {"train": "lora", "lora": {"rank": 16}}),
        (4, True, {"train": "lora", "lora": {"rank": 4, "targets": EVERY_LINEAR}, "precision": "bf16"}),
    ],
    ids=lambda value: str(value),
)
def test_activations_are_what_torch_allocates(
    layers: int, rotary: bool, fields: dict[str, Any], checkpointing: bool
) -> None:
    common = {"steps": 1, "batch_size": 1, "learning_rate": 1e-4, "gradient_checkpointing": checkpointing}
    made = from_dict(TrainingConfig, common | fields)
    model = transformer(layers, rotary=rotary)
    computed = activation_bytes(sizes_of(model), made, LATENT, made.batch_size)
    assert computed == pytest.approx(measured_activations(model, made), rel=0.1)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_states_are_what_deepspeed_holds_while_weights_change(tmp_path: Path) -> None:
    """Within a hundredth, once the copies that a step makes at its end are counted where they still live."""
    held = memory_runs.run_cases(tmp_path)
    module = memory_runs.build(memory_runs.config())
    counts = [sum(weight.numel() for weight in part.parameters()) for part in (module.transformer, module.token_fuser)]
    sizes = Sizes(dict(module.transformer.config), *counts, linears=(), text_tokens=memory_runs.TEXT_LENGTH + 4)
    for name, case in memory_runs.CASES.items():
        states = memory._states(sizes, memory_runs.config(**case), memory_runs.WORLD)
        kept = states.weights + states.gradients + states.optimizer
        copies = 0 if name == "fp32 ZeRO-2" else states.activations  # there the gradients go as their copy is made
        assert held[name] == pytest.approx(kept + copies, rel=0.01, abs=0.05 * sizes.weights), name


def test_under_zero_3_states_are_those_of_deepspeeds_estimator() -> None:
    recipe = published("mimir_5b")
    sizes = read_sizes(recipe.model)
    made = TrainingConfig(**(dict(recipe.training) | {"zero_stage": 3}))
    states = memory._states(sizes, made, 16)
    _, theirs, largest_layer = estimate_zero3_model_states_mem_needs(
        sizes.weights, 0, num_gpus_per_node=8, num_nodes=2, cpu_offload=False
    )
    assert largest_layer == 0
    assert states.weights + states.gradients + states.optimizer == pytest.approx(theirs, rel=1e-6)


def test_under_zero_2_a_bf16_gradient_is_a_buffer_and_not_a_state() -> None:
    recipe = published("mimir_5b")
    sizes = read_sizes(recipe.model)
    states = memory._states(sizes, recipe.training, 16)
    _, theirs = estimate_zero2_model_states_mem_needs(sizes.weights, 8, 2, cpu_offload=False)
    ours = states.weights + states.gradients + states.optimizer
    assert ours == pytest.approx(theirs - 2 * sizes.weights / 16, rel=1e-6)


def test_buffers_have_deepspeeds_default_sizes() -> None:
    defaults = DeepSpeedZeroConfig()
    assert defaults.reduce_bucket_size == memory.REDUCE_BUCKET
    assert defaults.max_live_parameters == memory.LIVE_PARAMETERS
    assert defaults.sub_group_size == memory.SUB_GROUP


@pytest.mark.parametrize("name", ["mimir_2b", "mimir_5b"])
def test_the_published_models_are_counted_without_weights(name: str) -> None:
    sizes = read_sizes(published(name).model)
    assert sizes.transformer_weights == pytest.approx(PARAMETERS[name.removeprefix("mimir_")], rel=5e-3)
    assert sizes.fuser_weights == 2 * 4096 * 3072 + 4096 * 4096 + 2 * 4096 + 4 * 3072 + 4 * 4096
    assert sizes.tokens(LATENTS) == 17_550 + 230
    assert sizes.trained(config()) == sizes.weights
    assert sizes.trained(config(train="fuser")) == sizes.fuser_weights


def test_adapters_are_those_that_peft_makes(tmp_path: Path) -> None:
    model = ModelConfig(base=str(tiny_base(tmp_path / "base")), llm=str(tiny_llm(tmp_path / "llm")))
    sizes = read_sizes(model)
    made = config(train="lora")
    adapted = tiny_transformer()
    adapt(adapted, made)
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert sizes.trained(made) == sizes.fuser_weights + trained


def test_a_mimir_checkpoint_is_counted_with_its_own_fuser(tmp_path: Path) -> None:
    mimir = tiny_mimir(tmp_path / "mimir")
    found, wanted = (
        read_sizes(model)
        for model in (ModelConfig(base=str(mimir)), ModelConfig(base=f"{mimir}_base", llm=f"{mimir}_llm"))
    )
    assert (found.weights, found.fuser_weights, found.text_tokens, found.linears) == (
        *(wanted.weights, wanted.fuser_weights, wanted.text_tokens, wanted.linears),
    )


def test_a_checkpoint_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no checkpoint at .*nowhere"):
        read_sizes(ModelConfig(base=str(tmp_path / "nowhere")))


def test_each_setting_saves_what_it_should() -> None:
    recipe = published("mimir_5b")
    sizes = read_sizes(recipe.model)

    def need(**changes: Any) -> memory.Memory:
        made = TrainingConfig(**(dict(recipe.training) | changes))
        return estimate_memory(sizes, made, LATENTS, gpu=True)

    usual = need()
    assert need(zero_stage=1).gradients == 16 * usual.gradients
    assert need(zero_stage=3).weights == pytest.approx(usual.weights / 16)
    assert need(workers=32, accumulate=2).optimizer == pytest.approx(usual.optimizer / 2)
    assert need(gradient_checkpointing=False).activations > 10 * usual.activations
    assert need(accumulate=2).activations == pytest.approx(2 * usual.activations)
    assert need(ema_decay=0.99).optimizer == pytest.approx(usual.optimizer * 16 / 12)
    alone, offloaded = (need(offload=what, workers=1, accumulate=64) for what in ("none", "optimizer"))
    assert offloaded.optimizer == 0
    assert offloaded.host > alone.host
    everything = need(offload="all", zero_stage=3, workers=1, accumulate=64)
    assert everything.weights == everything.gradients == everything.optimizer == 0
    assert everything.host > 20 * sizes.weights
