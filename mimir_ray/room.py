"""Whether a Ray cluster has room for all that a stage holds at once. Ray itself waits for it in silence, for ever.

    with room("precompute", [config.latents.need("precompute.latents"), ...]):
        ...  # refused where it can never fit; where machines may come, a line every 30 s says what is waited for

Actors hold what they reserve to the end, and a task has to fit beside them: so the needs of a stage are added up.
Everything but `room` and what it asks Ray for computes on plain mappings, such as {"CPU": 4.0, "GPU": 1.0}.
"""

import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mimir_ray.config import UserError

logger = logging.getLogger(__name__)

Resources = Mapping[str, float]
"""What a machine has, as Ray names it; of these ``CPU`` and ``GPU`` count."""

TELL_EVERY_S = 30.0


@dataclass(frozen=True)
class Need:
    """Actors alike, or one task, that are there beside all else of a stage."""

    setting: str
    """The section that says so, such as ``precompute.latents``; it names the need too."""
    count: int = 1
    cpus: float = 0.0
    """Of each."""
    gpus: float = 0.0
    """Of each."""
    fields: tuple[str, str, str] = ("actors", "num_cpus", "num_gpus")
    """What the section calls ``count``, ``cpus`` and ``gpus``; empty where it cannot be set."""
    without_gpu: str = ""
    """What has to be set too, beside no GPUs, so that it computes on the CPU."""

    def __str__(self) -> str:
        each = _amount(self.cpus, self.gpus, ", ")
        return f"{self.setting} {each}" if self.count == 1 else f"{self.setting} {self.count} x ({each})"


def check_room(stage: str, needs: Sequence[Need], nodes: Sequence[Resources], most: Sequence[Resources] | None) -> str:
    """What a stage waits for, in a line; empty where the machines that there are hold its needs together.

    Args:
        most: the machines that there may be, where the cluster grows.

    Raises:
        UserError: they never will; with what is needed, what there is, and what to set.
    """
    if fits(needs, nodes):
        return ""
    asked = f"{_total(needs)} at once ({'; '.join(map(str, needs))})"
    if most is not None and fits(needs, most):
        return f"{stage} waits for machines: it needs {asked}, and there are {_has(nodes)} so far; the cluster grows"
    limit = nodes if most is None else most
    there = f"this Ray cluster has {_has(nodes)}" if most is None else f"this Ray cluster grows to {_has(most)} at most"
    raise UserError(f"{stage} needs {asked}, and {there}: {_remedy(needs, limit)}")


def fits(needs: Sequence[Need], nodes: Sequence[Resources]) -> bool:
    """Whether machines hold all needs together: each in turn, the largest first, on the first machine with room."""
    free = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    for need in sorted(needs, key=lambda need: (need.gpus, need.cpus), reverse=True):
        for _ in range(need.count):
            place = next((i for i, (cpus, gpus) in enumerate(free) if _holds(cpus, gpus, need)), None)
            if place is None:
                return False
            free[place] = free[place][0] - need.cpus, free[place][1] - need.gpus
    return True


def grown(
    nodes: Sequence[Resources], groups: Sequence[tuple[Resources, int, int]], enough: int
) -> list[Resources] | None:
    """The machines that there may be; None where the cluster does not grow.

    Args:
        groups: what a machine of each kind has, and the fewest and most of them; -1 is any number.
        enough: machines of one kind beyond which more make no difference.
    """
    if not any(most < 0 or most > least for _, least, most in groups):
        return None
    heads = [node for node in nodes if "node:__internal_head__" in node]
    shapes = [(head.get("CPU", 0.0), head.get("GPU", 0.0)) for head in heads]
    workers = [  # a kind with one machine of the head's shape is the head
        (node, most) for node, _, most in groups if most != 1 or (node.get("CPU", 0), node.get("GPU", 0)) not in shapes
    ]
    return heads + [node for node, most in workers for _ in range(enough if most < 0 else min(most, enough))]


def find_room(stage: str, needs: Sequence[Need]) -> str:
    """``check_room`` in the cluster that this process is connected to.

    Where it is connected to none nothing is known, and nothing said: Ray Data starts a Ray of this machine by itself.
    """
    import ray

    if not ray.is_initialized():
        return ""
    nodes = cluster_resources()
    if fits(needs, nodes):
        return ""
    return check_room(stage, needs, nodes, largest_cluster(nodes, sum(need.count for need in needs)))


def may_fit(needs: Sequence[Need]) -> bool:
    """Whether the connected cluster has, or may get, room."""
    nodes = cluster_resources()
    return fits(needs, nodes) or fits(needs, largest_cluster(nodes, sum(need.count for need in needs)) or [])


@contextmanager
def room(stage: str, needs: Sequence[Need]) -> Iterator[None]:
    """Room for a stage in the cluster that this process is connected to, while the block runs.

    Where machines may come that are not there yet, a line every 30 s says what is waited for.

    Raises:
        UserError: there will never be room (``check_room``).
    """
    waits_for = find_room(stage, needs)
    if not waits_for:
        yield
        return
    ended = threading.Event()

    def tell(line: str) -> None:
        while line:
            logger.info("%s", line)
            if ended.wait(TELL_EVERY_S):
                return
            try:
                line = find_room(stage, needs)
            except UserError as error:
                line = str(error)
        logger.info("%s: its machines are there", stage)

    teller = threading.Thread(target=tell, args=(waits_for,), name="waiting-for-machines", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def cluster_resources() -> list[Resources]:
    """What each machine of the connected cluster has."""
    import ray

    cluster: Any = ray
    return [node["Resources"] for node in cluster.nodes() if node["Alive"]]


def largest_cluster(nodes: Sequence[Resources], enough: int) -> list[Resources] | None:
    """``grown`` by what the autoscaler of the connected cluster has said of itself."""
    import ray

    internal: Any = ray
    config = internal._private.state.state.get_cluster_config()  # Ray's own libraries ask there too
    return None if config is None else grown(nodes, node_groups(config), enough)


def node_groups(config: Any) -> list[tuple[Resources, int, int]]:
    """The kinds of machines of Ray's ``ClusterConfig``, as ``grown`` takes them."""
    return [(dict(group.resources), group.min_count, group.max_count) for group in config.node_group_configs]


def _holds(cpus: float, gpus: float, need: Need) -> bool:
    return need.cpus <= cpus + 1e-6 and need.gpus <= gpus + 1e-6


def _remedy(needs: Sequence[Need], nodes: Sequence[Resources]) -> str:
    """The settings with which it would fit, by trying: fewer actors, then smaller shares for each."""
    on_cpus = any(need.gpus for need in needs) and not any(node.get("GPU") for node in nodes)
    larger = "one with GPUs" if on_cpus else "a larger cluster"
    meant = [_without_gpu(need) for need in needs] if on_cpus else needs
    single = [replace(need, count=1) if need.fields[0] else need for need in meant]
    for changed in (meant, _fewer(meant, nodes) if fits(single, nodes) else _smaller(single, nodes)):
        changes = [change for old, new in zip(needs, changed, strict=True) for change in _changes(old, new)]
        if changes and fits(changed, nodes):
            why = " to compute on CPUs" if on_cpus else ""
            return f"set {' '.join(dict.fromkeys(changes))}{why}, or name {larger} with --address"
    return f"no setting makes it fit: name {larger} with --address"


def _without_gpu(need: Need) -> Need:
    return replace(need, gpus=0.0) if need.fields[2] or need.without_gpu else need


def _fewer(needs: Sequence[Need], nodes: Sequence[Resources]) -> list[Need]:
    """Fewer actors, of the largest pool first. With one of each it has to fit."""
    lowered = list(needs)
    while not fits(lowered, nodes):
        place = max(range(len(lowered)), key=lambda i: (bool(lowered[i].fields[0]), lowered[i].count, i))
        lowered[place] = replace(lowered[place], count=lowered[place].count - 1)
    return lowered


def _smaller(needs: Sequence[Need], nodes: Sequence[Resources]) -> list[Need]:
    """Smaller shares of the largest machine: as much for each as there is if all have the same."""
    largest = max(nodes, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)), default={})
    lowered = list(needs)
    for name, field, kind in (("cpus", 1, "CPU"), ("gpus", 2, "GPU")):
        able = [i for i, need in enumerate(lowered) if getattr(need, name) and need.fields[field]]
        taken = sum(need.count * getattr(need, name) for i, need in enumerate(lowered) if i not in able)
        copies = sum(lowered[i].count for i in able)
        share = math.floor(100 * max(0.0, largest.get(kind, 0.0) - taken) / copies) / 100 if copies else 0.0
        for i in able:
            lowered[i] = replace(lowered[i], **{name: min(getattr(lowered[i], name), share)})
    return lowered


def _changes(old: Need, new: Need) -> Iterator[str]:
    for field, before, after in zip(
        old.fields, (old.count, old.cpus, old.gpus), (new.count, new.cpus, new.gpus), strict=True
    ):
        if field and before != after:
            yield f"{old.setting}.{field}={after:g}"
    if old.gpus and not new.gpus and old.without_gpu:
        yield old.without_gpu


def _total(needs: Sequence[Need]) -> str:
    cpus, gpus = (sum(need.count * getattr(need, name) for need in needs) for name in ("cpus", "gpus"))
    return _amount(cpus, gpus, " and ")


def _has(nodes: Sequence[Resources]) -> str:
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    machines = f" on {len(nodes)} machines" if len(nodes) > 1 else ""
    return f"{_plural(cpus, 'CPU')} and {_plural(gpus, 'GPU')}{machines}"


def _amount(cpus: float, gpus: float, joined: str) -> str:
    return joined.join(_plural(much, kind) for much, kind in ((cpus, "CPU"), (gpus, "GPU")) if much) or "nothing"


def _plural(much: float, kind: str) -> str:
    return f"{round(much, 2):g} {kind}{'' if much == 1 else 's'}"
