"""The configurations of the published models, without their weights."""

import json
from pathlib import Path

from accelerate import init_empty_weights
from diffusers import CogVideoXTransformer3DModel
from transformers import Phi3Config

from mimir_ray.recipes import Recipe, by_name
from tests.model.test_real_shapes import CONFIGS
from tests.tiny import write_index

LATENTS = (13, 16, 60, 90)
"""T C h w of 49 frames of 480x720."""


def published(root: Path, name: str) -> Recipe:
    """The recipe ``mimir_2b`` or ``mimir_5b`` on directories that hold the configurations alone."""
    base, llm = root / name, root / "llm"
    (base / "transformer").mkdir(parents=True)
    with init_empty_weights():
        transformer = CogVideoXTransformer3DModel(**CONFIGS[name.removeprefix("mimir_")])
    transformer.save_config(base / "transformer")
    (base / "vae").mkdir()
    vae = {"block_out_channels": [128, 256, 256, 512], "temporal_compression_ratio": 4}
    (base / "vae" / "config.json").write_text(json.dumps(vae))
    write_index(base)
    Phi3Config().save_pretrained(llm)  # whose defaults are Phi-3-mini's, of the same width
    recipe = by_name(name)
    model = recipe.model.model_copy(update={"base": str(base), "llm": str(llm)})
    return recipe.model_copy(update={"model": model})
