"""Whether a run fits the machines it is started on, and if not, what would make it fit; before any GPU is taken.

The counts behind it were held against what torch and DeepSpeed allocate on CPUs, where they may refuse a run. What a
GPU allocates beside them nobody has measured: there they warn.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import ValidationError

from mimir_ray.config import UserError
from mimir_ray.model.config import ModelConfig
from mimir_ray.model.flops import known_gpu
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.sizing.memory import GIB, Memory, Sizes, estimate_memory, read_sizes

logger = logging.getLogger(__name__)

NARROW = 0.9
"""Share of a limit above which a run that fits is warned of."""
_CHANGES = ("accumulate", "zero_stage", "gradient_checkpointing", "workers", "offload", "train")
"""What may be changed, by what it costs: nothing, more communication, a third more time, machines, much more time;
and what is learnt."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    memory_bytes: int | None
    """Main memory that Ray found free when it started there; None where it is not known, which then limits nothing."""
    cpus: int
    gpus: int = 0
    gpu: str = ""
    """Its name, as Ray or the driver has it."""
    gpu_bytes: int | None = None
    """Memory of one GPU; None where its size is not known, which then limits nothing."""


def cluster_nodes() -> list[Node]:
    """The machines of the Ray cluster that this process is connected to.

    A GPU's memory is torch's figure on this machine, and elsewhere that of the type that Ray reports.
    """
    import ray

    cluster: Any = ray
    here = cluster.get_runtime_context().get_node_id()
    return [_node(entry["Resources"], entry["NodeID"] == here) for entry in cluster.nodes() if entry["Alive"]]


def _node(resources: Mapping[str, float], is_here: bool) -> Node:
    gpus = int(resources.get("GPU", 0))
    kinds = [key.removeprefix("accelerator_type:") for key in resources if key.startswith("accelerator_type:")]
    name = kinds[0].replace("-", " ") if gpus and kinds else ""
    known = known_gpu(name)
    gpu_bytes = int(known.memory_gib * GIB) if known else None
    if gpus and is_here:
        import torch

        if torch.cuda.is_available():
            found = torch.cuda.get_device_properties(0)
            name, gpu_bytes = found.name, found.total_memory
    memory = int(resources.get("memory", 0) + resources.get("object_store_memory", 0))
    return Node(memory or None, int(resources.get("CPU", 0)), gpus, name, gpu_bytes)


def check_fits(
    model: ModelConfig,
    config: TrainingConfig,
    latent_shape: tuple[int, int, int, int],
    nodes: Sequence[Node],
    *,
    gpu: bool,
) -> Memory:
    """What each worker needs, by estimate; a warning is logged where that is more than nine tenths of what there is.

    A GPU limits by its largest kind in the cluster, and main memory by the workers that the machines can hold together.

    Args:
        latent_shape: T C h w of the largest batch.
        gpu: whether workers get a GPU each.

    Raises:
        UserError: workers on CPUs do not fit; with the estimate by part, the limit, and the settings that would make
            them fit.
    """
    sizes = read_sizes(model)
    need = estimate_memory(sizes, config, latent_shape, gpu=gpu, workers=_workers(config, nodes, gpu=gpu))
    for share in (1.0, NARROW):
        if (problem := _problem(need, config, nodes, gpu=gpu, share=share)) is not None:
            remedy = _remedy(sizes, config, latent_shape, nodes, gpu=gpu, share=share)
            if share == 1.0 and not gpu:
                raise UserError(f"{problem}; {remedy}")
            basis = "by an estimate that no GPU has been held against" if gpu else "by estimate"
            verdict = "too little" if share == 1.0 else "narrow"
            logger.warning("%s, which is %s %s; should it run out, %s", problem, verdict, basis, remedy)
            break
    return need


def _gpu_limit(nodes: Sequence[Node]) -> int | None:
    sizes = [node.gpu_bytes for node in nodes if node.gpus]
    return None if not sizes or None in sizes else max(size for size in sizes if size is not None)


def _slots(nodes: Sequence[Node], *, gpu: bool) -> int:
    return sum(node.gpus if gpu else node.cpus for node in nodes)


def _workers(config: TrainingConfig, nodes: Sequence[Node], *, gpu: bool) -> int:
    """With how many the run would begin: all, or with ``min_workers`` as many as the machines take."""
    if config.min_workers is None:
        return config.workers
    return max(config.min_workers, min(config.workers, _slots(nodes, gpu=gpu)))


def _room(need: Memory, nodes: Sequence[Node], *, gpu: bool, share: float) -> int:
    """Workers that the machines' CPUs or GPUs and main memory allow."""
    room = 0
    for node in nodes:
        slots = node.gpus if gpu else node.cpus
        room += slots if node.memory_bytes is None else min(slots, int(share * node.memory_bytes // need.host))
    return room


def _problem(need: Memory, config: TrainingConfig, nodes: Sequence[Node], *, gpu: bool, share: float) -> str | None:
    """Where it takes more than this share of what there is, in words."""
    limit, workers = _gpu_limit(nodes), _workers(config, nodes, gpu=gpu)
    if gpu and limit is not None and need.total > share * limit:
        name = next(node.gpu for node in nodes if node.gpu_bytes == limit) or "GPU"
        return (
            f"training needs about {need.total / GIB:.1f} GiB of each of its {workers} GPUs ({need}), and the "
            f"{name} has {limit / GIB:.1f}"
        )
    if _room(need, nodes, gpu=gpu, share=share) < workers:
        parts = "" if gpu else f" ({need})"
        free = ", ".join("?" if node.memory_bytes is None else f"{node.memory_bytes / GIB:.1f}" for node in nodes)
        return (
            f"{workers} training workers need about {need.host / GIB:.1f} GiB of main memory each{parts}, and "
            f"the machines have {free} GiB free"
        )
    return None


def _remedy(
    sizes: Sizes,
    config: TrainingConfig,
    latent_shape: tuple[int, int, int, int],
    nodes: Sequence[Node],
    *,
    gpu: bool,
    share: float = 1.0,
) -> str:
    """The least change of the configuration after which it fits, by trying."""
    slots = _slots(nodes, gpu=gpu)
    least: Memory | None = None
    for changes, changed in _alternatives(config, slots):
        need = estimate_memory(sizes, changed, latent_shape, gpu=gpu, workers=_workers(changed, nodes, gpu=gpu))
        if _problem(need, changed, nodes, gpu=gpu, share=share) is None:
            settings = " ".join(f"training.{name}={str(value).lower()}" for name, value in changes.items())
            return f"set {settings}, which takes about {(need.total if gpu else need.host) / GIB:.1f} GiB"
        if least is None or need.total < least.total:
            least = need
    advice = "no setting makes it fit here: use more or larger machines"
    if gpu and least is not None:
        advice += (
            f"; the least that any takes is {least.total / GIB:.1f} GiB of a GPU and {least.host / GIB:.1f} GiB of "
            "main memory a worker"
        )
    return advice


def _alternatives(config: TrainingConfig, slots: int) -> Iterator[tuple[dict[str, Any], TrainingConfig]]:
    """Every configuration that takes less, with what it changes: first those that change least and cost least."""
    at_once = config.batch_size // (config.workers * config.accumulate)
    values: dict[str, list[Any]] = {
        "accumulate": [samples for samples in range(at_once, 0, -1) if at_once % samples == 0],  # by samples at once
        "zero_stage": list(range(config.zero_stage, 4)),
        "gradient_checkpointing": sorted({config.gradient_checkpointing, True}),
        "workers": [k for k in range(config.workers, max(slots, config.workers) + 1) if config.batch_size % k == 0],
        "offload": ["none", "optimizer", "all"][["none", "optimizer", "all"].index(config.offload) :],
        "train": ["full", "lora", "fuser"][["full", "lora", "fuser"].index(config.train) :],
    }

    def cost(choice: tuple[int, ...]) -> tuple[Any, ...]:
        changed = [_CHANGES[place] for place, index in enumerate(choice) if index]
        costly = [name for name in ("train", "offload") if name in changed]
        return costly, len(changed), [_CHANGES.index(name) for name in changed], choice

    for choice in sorted(product(*(range(len(values[name])) for name in _CHANGES)), key=cost)[1:]:
        chosen = {name: values[name][index] for name, index in zip(_CHANGES, choice, strict=True)}
        chosen["accumulate"] = max(1, config.batch_size // (chosen["workers"] * chosen["accumulate"]))
        changes = {name: value for name, value in chosen.items() if value != getattr(config, name)}
        try:
            yield changes, TrainingConfig(**(dict(config) | changes))
        except ValidationError:  # such as a batch that does not divide
            continue
