"""The class of this model, for diffusers; it needs mimir-ray to be installed."""

from mimir_ray.model.pipeline import MimirPipeline

__all__ = ["MimirPipeline"]
