"""The shapes world's exact scorer, as a training's validation takes one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mimir_ray.shapes.prompts import PROMPT_SETS, evaluation_prompts
from mimir_ray.shapes.scorer import score
from mimir_ray.shapes.world import Scene

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mimir_ray.recipes import Recipe
    from mimir_ray.training.reporting.validation import Score

KNOWN = 300
"""Prompts of each list whose scenes are known."""


@dataclass(frozen=True)
class SceneScorer:
    """Holds a video against the scene that its prompt means; a prompt of another text has no score."""

    scenes: dict[str, Scene]

    def __call__(self, prompt: str, frames: "NDArray[np.uint8]") -> "Score | None":
        """The share of axes (colour, object, ...) that are right, each of them in the detail."""
        from mimir_ray.training.reporting.validation import Score

        if prompt not in self.scenes:
            return None
        axes: dict[str, Any] = dict(score(frames, self.scenes[prompt]))
        judged = [right for axis, right in axes.items() if axis != "all"]
        return Score(sum(judged) / len(judged), axes)


def scorer_for(recipe: "Recipe") -> SceneScorer | None:
    """The scorer of the recipe's validation; None where nothing can judge its prompts."""
    scenes = {prompt.text: prompt.scene for name in PROMPT_SETS for prompt in evaluation_prompts(name, KNOWN)}
    return SceneScorer(scenes) if recipe.name == "shapes" else None
