"""Whether a cluster has room: what is refused, what is waited for, and what to set is told."""

import logging
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.core.generated.autoscaler_pb2 import ClusterConfig

from mimir_ray import room as room_module
from mimir_ray.config import UserError, override
from mimir_ray.curation import curate
from mimir_ray.curation.pipeline import needs as curation_needs
from mimir_ray.curation.stages import scoring_stages
from mimir_ray.generation.batch import generate_batch
from mimir_ray.precompute.pipeline import needs as precompute_needs
from mimir_ray.recipes import Recipe, by_name
from mimir_ray.room import Need, Resources, check_room, find_room, fits, grown, node_groups, room
from mimir_ray.serving.app import start
from mimir_ray.shapes.weights import mimir_dir
from mimir_ray.training.fit import needs as training_needs
from mimir_ray.video import write_mp4

TASK = Need("curation", cpus=1.0, fields=("", "cpus_per_task", ""))
HEAD: Resources = {"CPU": 4.0, "node:__internal_head__": 1.0}
GPU_NODE: Resources = {"CPU": 8.0, "GPU": 2.0}


def pool(name: str, cpus: float, actors: int = 1, gpus: float = 0.0) -> Need:
    return Need(f"pools.{name}", actors, cpus, gpus)


def machine(cpus: float, gpus: float = 0.0) -> Resources:
    return {"CPU": cpus, "GPU": gpus}


@pytest.mark.parametrize(
    ("needs", "nodes", "held"),
    [
        ([TASK, pool("a", 1.0)], [machine(2)], True),
        ([TASK, pool("a", 0.5), pool("b", 0.5)], [machine(2)], True),
        ([TASK, pool("a", 1.0), pool("b", 1.0)], [machine(2)], False),  # on Ray 2.60 this hangs
        ([TASK, pool("a", 1.5)], [machine(2)], False),  # and this
        ([pool("a", 1.5)], [machine(2)], True),
        ([pool("a", 0.1, 3)], [machine(0.3)], True),  # three tenths are less than 0.3 to a computer
        ([pool("a", 3.0, 2)], [machine(4), machine(4)], True),
        ([pool("a", 3.0, 2), TASK, TASK, TASK], [machine(4), machine(4)], False),
        ([pool("a", 4.0, gpus=1.0)], [machine(8), machine(2, 1)], False),  # enough in all, on no machine together
        ([TASK], [], False),
        ([], [], True),
    ],
)
def test_what_is_held_at_once_has_to_fit_with_a_task_beside_it(
    needs: list[Need], nodes: list[Resources], held: bool
) -> None:
    assert fits(needs, nodes) is held


def refusal(needs: Sequence[Need], *nodes: Resources, most: Sequence[Resources] | None = None) -> str:
    with pytest.raises(UserError) as told:
        check_room("the stage", needs, nodes, most)
    assert "\n" not in str(told.value)
    return str(told.value)


def mended(needs: Sequence[Need], told: str) -> list[Need]:
    """The needs, set as a message says."""
    changes: dict[str, float] = {name: float(value) for name, value in re.findall(r"([\w.]+)=([\d.]+\d|\d)", told)}
    return [
        Need(
            need.setting,
            *(
                type(old)(changes.get(f"{need.setting}.{field}", old))  # type: ignore[arg-type]
                for field, old in zip(need.fields, (need.count, need.cpus, need.gpus), strict=True)
            ),
        )
        for need in needs
    ]


@pytest.mark.parametrize(
    ("needs", "nodes", "remedy"),
    [
        ([TASK, pool("a", 1.0, 4)], [machine(3)], "set pools.a.actors=2, or name a larger cluster with --address"),
        ([TASK, pool("a", 1.5)], [machine(2)], r"set pools.a.num_cpus=1, or"),
        ([TASK, pool("a", 1.0), pool("b", 1.0)], [machine(2)], r"cpus_per_task=0.66 pools.a.num_cpus=0.66 pools.b"),
        ([pool("a", 1, 4, 1.0), pool("b", 1, 1, 1.0), pool("c", 1, 3, 1.0)], [machine(64, 4)], r"a.actors=2 .*c.act"),
        ([pool("a", 1, 4, 1.0), pool("b", 1, 1, 1.0), pool("c", 1, 3, 1.0)], [machine(64, 1)], r"b.num_gpus=0.33 "),
        ([pool("a", 2, 2, 1.0)], [machine(4)], r"set pools.a.num_gpus=0 to compute on CPUs, or name one with GPUs"),
    ],
)
def test_a_refusal_says_what_to_set_and_that_is_enough(needs: list[Need], nodes: list[Resources], remedy: str) -> None:
    told = refusal(needs, *nodes)
    assert re.search(remedy, told), told
    assert fits(mended(needs, told), nodes)


def test_a_refusal_says_what_is_needed_and_what_there_is() -> None:
    needs = [pool("a", 4, 2, 1.0), TASK]
    told = refusal(needs, machine(4), machine(4))
    assert told.startswith(
        "the stage needs 9 CPUs and 2 GPUs at once (pools.a 2 x (4 CPUs, 1 GPU); curation 1 CPU), and this Ray cluster "
        "has 8 CPUs and 0 GPUs on 2 machines: "
    )
    nothing = refusal([Need("the list", cpus=8, fields=("", "", ""))], machine(4))
    assert nothing.endswith("no setting makes it fit: name a larger cluster with --address")


def test_a_cluster_that_grows_is_waited_for_as_far_as_it_grows() -> None:
    needs = [pool("a", 4, 2, 1.0)]
    most = grown([HEAD], [(HEAD, 1, 1), (GPU_NODE, 0, 3)], enough=2)
    assert most == [HEAD, GPU_NODE, GPU_NODE]
    waits = check_room("encoding", needs, [HEAD], most)
    assert waits.startswith("encoding waits for machines: it needs 8 CPUs and 2 GPUs at once (pools.a 2 x")
    assert "there are 4 CPUs and 0 GPUs so far" in waits
    assert check_room("encoding", needs, [HEAD, GPU_NODE], most) == ""
    told = refusal([pool("a", 4, 9, 1.0)], HEAD, most=most)
    assert "this Ray cluster grows to 20 CPUs and 4 GPUs on 3 machines at most: set pools.a.actors=4," in told


def test_what_grows_is_read_from_rays_own_words() -> None:
    config = ClusterConfig()
    for name, node, least, most in (("head", HEAD, 1, 1), ("gpu", GPU_NODE, 0, -1), ("old", GPU_NODE, 0, 0)):
        group = config.node_group_configs.add(name=name, min_count=least, max_count=most)
        for kind, much in node.items():
            group.resources[kind] = int(much)
    groups = node_groups(config)
    assert [(least, most) for _, least, most in groups] == [(1, 1), (0, -1), (0, 0)]
    assert grown([HEAD], groups, enough=2) == [HEAD, GPU_NODE, GPU_NODE]
    assert grown([HEAD], [(HEAD, 1, 1), (GPU_NODE, 2, 2)], enough=2) is None, "as many as it is to have"


def changed(name: str, *assignments: str) -> Recipe:
    return override(by_name(name), list(assignments))


def needs_of(recipe: Recipe) -> dict[str, list[Need]]:
    return {
        "curation": curation_needs(scoring_stages(recipe.curation), recipe.curation),
        "training": training_needs(recipe.training, gpu=recipe.training.device == "cuda"),
        "precompute": precompute_needs(recipe.precompute, ("latents", "t5_tokens", "llm_tokens")),
        "generation": recipe.generation.needs(),
        "serving": recipe.endpoint(recipe.model.base).needs(),
    }


def test_the_embedded_recipe_fits_a_small_machine_and_the_others_name_their_gpus() -> None:
    for stage, needs in needs_of(by_name("shapes")).items():
        assert fits(needs, [machine(2)]), stage
    for stage, needs in needs_of(by_name("mimir_5b")).items():
        told = refusal(needs, machine(4))
        assert "one with GPUs" in told, stage
    told = refusal(needs_of(by_name("mimir_5b"))["generation"], machine(4))
    assert "generation.encode.num_gpus=0" in told
    assert "generation.runtime.device=auto" in told
    assert "training.device=auto" in refusal(needs_of(by_name("mimir_5b"))["training"], machine(4))


def test_a_vllm_engine_needs_its_gpus_wherever_they_are() -> None:
    recipe = changed(
        "mimir_5b",
        "curation.watermark.engine=vllm",
        "curation.pools.watermark_vllm={engines: 2, tensor_parallel_size: 2}",
    )
    (need,) = [need for need in needs_of(recipe)["curation"] if need.setting == "curation.pools.watermark_vllm"]
    assert (need.count, need.gpus) == (4, 1.0)


def test_a_validation_is_beside_the_workers() -> None:
    recipe = changed("shapes", "training.validation={every: 250, prompts: [a red circle], num_cpus: 2}")
    told = refusal(training_needs(recipe.training, gpu=False), machine(3))
    assert "training needs 4" in told.replace("the stage", "training")
    assert "training.workers=1" in told
    fewer = changed("shapes", "training.min_workers=1").training
    assert [need.count for need in training_needs(fewer, gpu=False)] == [1]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A cluster that is what the test says."""
    found: dict[str, Any] = {"nodes": [HEAD], "most": [HEAD, GPU_NODE]}
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr(room_module, "cluster_resources", lambda: found["nodes"])
    monkeypatch.setattr(room_module, "largest_cluster", lambda nodes, enough: found["most"])
    monkeypatch.setattr(room_module, "TELL_EVERY_S", 0.01)
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(500):
        if condition():
            return
        waited.wait(0.01)
    pytest.fail("it never came")


def test_what_is_waited_for_is_said_until_it_is_there(
    cluster: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])  # a verb before may have left its own
    caplog.set_level(logging.INFO, "mimir_ray")
    with room("encoding", [pool("a", 1, 1, 1.0)]):
        wait_for(lambda: len(caplog.messages) > 2)
        cluster["nodes"] = [HEAD, GPU_NODE]
        wait_for(lambda: caplog.messages[-1] == "encoding: its machines are there")
    assert set(caplog.messages[:-1]) == {
        "encoding waits for machines: it needs 1 CPU and 1 GPU at once (pools.a 1 CPU, 1 GPU), and there are 4 CPUs "
        "and 0 GPUs so far; the cluster grows"
    }
    caplog.clear()
    with room("encoding", [pool("a", 1, 1, 1.0)]):
        pass
    assert not caplog.messages, "nothing is said where there is room"


def test_the_end_of_a_stage_ends_the_telling(cluster: dict[str, Any]) -> None:
    with pytest.raises(InterruptedError), room("encoding", [pool("a", 1, 1, 1.0)]):
        raise InterruptedError
    assert not [thread for thread in threading.enumerate() if thread.name == "waiting-for-machines"]


@pytest.mark.usefixtures("ray_session")
def test_a_real_ray_is_asked() -> None:
    assert find_room("encoding", [pool("a", 1, 4)]) == ""
    with pytest.raises(UserError, match=r"has 4 CPUs and 0 GPUs: set pools.a.num_gpus=0 to compute on CPUs"):
        find_room("encoding", [pool("a", 1, 1, 1.0)])


def test_nothing_is_known_where_no_ray_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    assert find_room("encoding", [pool("a", 999)]) == ""


@pytest.mark.usefixtures("ray_session")
def test_every_stage_refuses_within_seconds_what_never_comes(tmp_path: Path) -> None:
    """On a Ray of 4 CPUs. Training has its own test of this; serving starts nothing before it has looked."""
    video, model = tmp_path / "a.mp4", mimir_dir()
    write_mp4(video, np.zeros((65, 64, 64, 3), np.uint8), fps=16.0)
    recipe, data = by_name("shapes"), str(tmp_path / "data")
    list_of_one = [recipe.generation.request("red circle", model)]
    wide = recipe.model_copy(
        update={
            "curation": override(recipe.curation, ["cpus_per_task=5"]),
            "generation": override(recipe.generation, ["denoise.num_gpus=1"]),
            "serving": override(recipe.serving, ["denoiser.min_replicas=9", "denoiser.max_replicas=9", "port=65000"]),
        }
    )
    with pytest.raises(UserError, match=r"curation needs 5 CPUs .*: set curation.cpus_per_task=4, or"):
        curate([str(video)], data, wide.curation)
    with pytest.raises(UserError, match=r"generation needs .* 1 GPU .*: set generation.denoise.num_gpus=0 to"):
        generate_batch(list_of_one, model, str(tmp_path / "videos"), wide.generation)
    with pytest.raises(UserError, match=r"serving needs .*: set serving.denoiser.min_replicas=5, or"):
        start(wide.endpoint(model))
