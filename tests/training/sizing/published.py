"""The recipes of the published models on their configurations, without their weights."""

from mimir_ray.model.published import described
from mimir_ray.recipes import Recipe, by_name

LATENTS = (13, 16, 60, 90)
"""T C h w of 49 frames of 480x720."""


def published(name: str) -> Recipe:
    """The recipe ``mimir_2b`` or ``mimir_5b`` on directories that hold the configurations alone."""
    recipe = by_name(name)
    return recipe.model_copy(update={"model": described(recipe.model)})
