"""How much the quickstart makes. What the stages do with it is the recipe's."""

from pydantic import Field

from mimir_ray.config import Config


class QuickstartConfig(Config):
    """Sized so that the whole road takes less than six minutes on two cores."""

    clips: int = Field(1600, ge=1)
    """Good clips to render; six files that must not pass come on top."""
    prompts: int = Field(24, ge=6)
    """Evaluation prompts of each list: plain words, nicknames of the clips, held-out nicknames. At least two of each
    kind of scene, so that the floor holds a video against another prompt than its own."""
    seed: int = Field(0, ge=0)
    """The seed of the corpus, and of the first video of each list; the same for every model."""
