"""The class of this component, for diffusers; it needs mimir-ray to be installed."""

from mimir_ray.model.token_fuser import TokenFuser

__all__ = ["TokenFuser"]
