"""What does not fit is told what would: refused on CPUs, where the count is measured, and warned of on GPUs."""

import logging
import re
from typing import Any

import pytest

from mimir_ray.config import UserError
from mimir_ray.model.flops import GPUS
from mimir_ray.recipes import Recipe, by_name
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.sizing.capacity import Node, _alternatives, _node, check_fits
from mimir_ray.training.sizing.memory import GIB, Memory
from tests.training.sizing.published import LATENTS, published


def machine(gpus: int = 8, name: str = "H100", memory_gib: float = 1000) -> Node:
    return Node(int(memory_gib * GIB), 64, gpus, name, int(GPUS[name].memory_gib * GIB))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return published("mimir_5b")


def changed(recipe: Recipe, **fields: Any) -> TrainingConfig:
    return TrainingConfig(**(dict(recipe.training) | fields))


def check(recipe: Recipe, nodes: list[Node], **fields: Any) -> Memory:
    return check_fits(recipe.model, changed(recipe, **fields), LATENTS, nodes, gpu=True)


def warning(caplog: pytest.LogCaptureFixture, recipe: Recipe, nodes: list[Node], **fields: Any) -> str:
    """What is said of the run, once; nothing where it fits. It is never refused."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mimir_ray"):
        check(recipe, nodes, **fields)
    assert len(caplog.messages) <= 1
    return "".join(caplog.messages)


def test_the_recipe_fits_the_machines_that_it_is_for(recipe: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    need = check(recipe, [machine(), machine()])
    assert need.total < 40 * GIB
    assert not caplog.records


@pytest.mark.parametrize(
    ("fields", "gpus", "remedy"),
    [
        ({"gradient_checkpointing": False}, 16, "set training.gradient_checkpointing=true, which"),
        ({"workers": 16, "accumulate": 1, "gradient_checkpointing": False}, 16, "gradient_checkpointing=true"),
        ({"workers": 4, "accumulate": 1}, 4, r"set training.accumulate=\d+, which"),
        ({"workers": 1, "accumulate": 64}, 8, "set training.accumulate=32 training.workers=2, which"),
        ({"workers": 1, "accumulate": 64}, 1, "set training.offload=optimizer, which"),
        ({"workers": 4, "accumulate": 16, "zero_stage": 1, "ema_decay": 0.99}, 4, "set training.zero_stage=2, which"),
    ],
)
def test_what_cannot_fit_is_told_the_least_change_that_fits(
    recipe: Recipe, fields: dict[str, Any], gpus: int, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [machine(min(8, gpus))] * max(1, gpus // 8)
    if fields.get("zero_stage") == 1:
        nodes = [Node(1000 * GIB, 64, gpus, "card", 60 * GIB)]
    told = warning(caplog, recipe, nodes, **fields)
    assert re.search(r"GiB of each of its \d+ GPUs \(weights .* runtime 1\.0\), and the", told)
    assert "which is too little by an estimate that no GPU has been held against; should it run out, set" in told
    assert re.search(remedy, told), told
    settings = re.findall(r"training\.(\w+)=([\w.]+)", told)
    values = {"true": True, "optimizer": "optimizer", "all": "all", "lora": "lora", "fuser": "fuser"}
    mended = fields | {name: values.get(text) or int(text) for name, text in settings}
    assert "too little" not in warning(caplog, recipe, nodes, **mended)


def test_where_nothing_fits_the_least_that_is_needed_is_said(recipe: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    told = warning(caplog, recipe, [Node(1000 * GIB, 8, 1, "tiny", 4 * GIB)], workers=1, accumulate=64)
    assert "no setting makes it fit here: use more or larger machines; the least that" in told


def test_a_run_that_barely_fits_is_warned_of(recipe: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    need = check(recipe, [machine(), machine()])
    told = warning(caplog, recipe, [Node(1000 * GIB, 64, 16, "card", int(need.total * 1.01))])
    assert re.search("which is narrow by an estimate .*; should it run out, set training.zero_stage=3", told)
    told = warning(caplog, recipe, [Node(1000 * GIB, 64, 16, "card", int(need.total * 0.99))])
    assert "the card has" in told
    assert "too little" in told


def test_main_memory_into_which_every_worker_reads_the_checkpoint_is_looked_at(
    recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    told = warning(caplog, recipe, [machine(memory_gib=100), machine(memory_gib=100)])
    assert re.search(r"16 training workers need about \d+\.\d GiB of main memory each, and the .* too little", told)


def test_a_run_that_begins_with_fewer_workers_shares_its_states_among_those(
    recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    whole = check(recipe, [machine(), machine()])
    fewer = check(recipe, [machine(4)], min_workers=2)
    assert fewer.optimizer == pytest.approx(4 * whole.optimizer)
    assert fewer.activations == whole.activations
    told = warning(caplog, recipe, [Node(1000 * GIB, 64, 2, "card", 60 * GIB)], min_workers=2)
    assert "each of its 2 GPUs" in told


def test_a_gpu_of_unknown_size_limits_nothing(recipe: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    nodes = [machine(), Node(1000 * GIB, 64, 8, "Voodoo", None)]
    assert check(recipe, nodes, gradient_checkpointing=False).total > 100 * GIB
    assert not caplog.messages


def test_the_laptops_recipe_fits_a_laptop_and_not_a_thimble(caplog: pytest.LogCaptureFixture) -> None:
    recipe = by_name("shapes")
    shape = (3, 16, 8, 8)
    need = check_fits(recipe.model, recipe.training, shape, [Node(8 * GIB, 4)], gpu=False)
    assert need.host == need.total < 2 * GIB
    with pytest.raises(UserError, match=r"need about .* GiB of main memory each \(weights .* have 1\.0 GiB free"):
        check_fits(recipe.model, recipe.training, shape, [Node(GIB, 4)], gpu=False)
    assert not caplog.messages
    caplog.set_level(logging.WARNING, "mimir_ray")
    check_fits(recipe.model, recipe.training, shape, [Node(int(2 * need.host * 1.05), 4)], gpu=False)
    assert "which is narrow by estimate; should it run out" in caplog.text


def test_alternatives_are_configurations_and_the_cheapest_come_first(recipe: Recipe) -> None:
    made = changed(recipe, workers=4, accumulate=1, zero_stage=1, gradient_checkpointing=False)
    tried = [changes for changes, _ in _alternatives(made, slots=8)]
    assert tried[0] == {"accumulate": 2}
    single = [next(iter(changes)) for changes in tried if len(changes) == 1]
    assert list(dict.fromkeys(single))[:4] == ["accumulate", "zero_stage", "gradient_checkpointing", "workers"]
    plain = [changes for changes in tried if not {"offload", "train"} & changes.keys()]
    assert tried[: len(plain)] == plain


def test_a_node_is_read_as_ray_describes_it() -> None:
    described = {"CPU": 64.0, "GPU": 8.0, "memory": 7e11, "object_store_memory": 3e11, "accelerator_type:H100": 1.0}
    assert _node(described, is_here=False) == Node(10**12, 64, 8, "H100", int(79.6 * GIB))
    assert _node({"CPU": 4.0}, is_here=False) == Node(None, 4)
    other = _node({"CPU": 4.0, "GPU": 1.0, "accelerator_type:GeForce-RTX-4090": 1.0}, is_here=False)
    assert other.gpu_bytes == int(23.6 * GIB)
