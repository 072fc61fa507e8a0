"""What `mimir train --estimate` prints: the same cells as the table in the documentation."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from mimir_ray.training.sizing.estimate import UTILISATION

if TYPE_CHECKING:
    from mimir_ray.recipes import Recipe
    from mimir_ray.training.sizing.memory import Sizes

NOTE = (
    "All of this is computed, and nothing of it was measured on a GPU. "
    f"A GPU is taken to reach {UTILISATION:.0%} of its peak over all that it computes, communication to hide behind "
    "computation. Main memory a worker does not count the tables that are read."
)
_PARTS = ("weights", "gradients", "optimizer", "activations", "buffers", "runtime")


def columns(gpu: str) -> list[str]:
    """Heads of the table."""
    return ["GPUs", "ZeRO", *_PARTS, "all", gpu, "main memory", "samples/s", "MFU", "hours"]


def rows(recipe: "Recipe", gpu: str, workers: Sequence[int] | None = None) -> list[list[str]]:
    """Cells by number of GPUs and ZeRO stage; the hub is asked for models that no recipe names alone.

    Raises:
        UserError: the GPU is not known, or the batch cannot be shared among so many.
    """
    from mimir_ray.training.sizing.estimate import estimate_training
    from mimir_ray.training.sizing.memory import GIB

    sizes, largest = _sizes(recipe)
    return [
        [
            str(row.config.workers),
            str(row.config.zero_stage),
            *(f"{getattr(row.memory, part) / GIB:.1f}" for part in _PARTS),
            f"{row.memory.total / GIB:.1f}",
            "fits" if row.fits else "too small",
            f"{row.memory.host / GIB:.1f}",
            "-" if row.samples_per_s is None else f"{row.samples_per_s:.2f}",
            "-" if row.mfu is None else f"{row.mfu:.0%}",
            "-" if row.hours is None else f"{row.hours:,.0f}" if row.hours >= 10 else f"{row.hours:.1f}",
        ]
        for row in estimate_training(sizes, recipe.training, largest, gpu=gpu, workers=workers)
    ]


def gpu_gib(recipe: "Recipe") -> float:
    """GiB that a worker of the recipe's own training takes of its GPU, at the largest of its sizes."""
    from mimir_ray.training.sizing.memory import GIB, estimate_memory

    sizes, largest = _sizes(recipe)
    return estimate_memory(sizes, recipe.training, largest, gpu=True).total / GIB


def _sizes(recipe: "Recipe") -> "tuple[Sizes, tuple[int, int, int, int]]":
    """The model's sizes, and latents T C h w of its largest clips."""
    from mimir_ray.model.latents import latent_shape
    from mimir_ray.model.published import described
    from mimir_ray.precompute.components import read_config
    from mimir_ray.training.sizing.memory import read_sizes

    model = described(recipe.model)
    sizes = read_sizes(model)
    vae, transformer = read_config(model, "vae"), SimpleNamespace(**sizes.transformer)
    shapes = [latent_shape(vae, transformer, s.num_frames, s.height, s.width) for s in recipe.precompute.sizes]
    return sizes, max(shapes, key=math.prod)
