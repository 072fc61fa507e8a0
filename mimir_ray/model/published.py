"""The configurations of the models that recipes name, shipped so that a run can be estimated without a network.

`configs/OWNER/NAME` holds the config.json of each part, as published, and no weights.
"""

from pathlib import Path

from mimir_ray.model.config import ModelConfig

CONFIGS = Path(__file__).parent / "configs"


def described(model: ModelConfig) -> ModelConfig:
    """`model` with directories of configurations in the place of the hub ids whose configurations ship here.

    For what needs shapes alone. A directory of that name, another revision and any other model stay what they are.
    """
    pinned = {"base": model.revision, "llm": model.llm_revision}
    found = {
        part: str(CONFIGS / name)
        for part, revision in pinned.items()
        if (name := getattr(model, part)) and revision is None and not Path(name).is_dir() and _ships(name)
    }
    return model.model_copy(update=found)


def _ships(name: str) -> bool:
    return any((CONFIGS / name).glob("*.json"))
