"""Clips become latents and captions become token states, once, before training, on Ray Data.

summary = precompute("runs/mine/data", recipe.model, recipe.precompute)
"""

from mimir_ray.precompute.config import PrecomputeConfig
from mimir_ray.precompute.estimate import Estimate, estimate
from mimir_ray.precompute.in_memory import EncodedTables, encode_in_memory
from mimir_ray.precompute.pipeline import precompute
from mimir_ray.precompute.summary import PrecomputeSummary, render

__all__ = [
    "EncodedTables",
    "Estimate",
    "PrecomputeConfig",
    "PrecomputeSummary",
    "encode_in_memory",
    "estimate",
    "precompute",
    "render",
]
