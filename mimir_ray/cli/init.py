"""`mimir init`: a fresh Mimir from a base model, ready to be fine-tuned."""

from pathlib import Path
from typing import Annotated

import typer

from mimir_ray.cli.options import Assignments, ConfigFiles, RecipeName, load_recipe
from mimir_ray.cli.paths import require_models, require_writable
from mimir_ray.cli.verb import register
from mimir_ray.config import UserError
from mimir_ray.console import results, silence_loading_bars


def add_to(app: typer.Typer) -> None:
    """Register the verb of this module."""
    register(
        app,
        "init",
        examples=[
            "mimir init --out runs/fresh",
            "mimir init --recipe mimir_5b --out /models/mimir-5b-fresh",
            "mimir init --out runs/fresh --set model.fuser.stabilizer=false",
        ],
    )(init)


def init(
    out: Annotated[Path, typer.Option("--out", help="Directory of the new model; must be empty or not exist yet.")],
    recipe: RecipeName = "shapes",
    files: ConfigFiles = None,
    assignments: Assignments = None,
) -> None:
    """Build a fresh Mimir: a CogVideoX base, a language model and a new token fuser, in diffusers layout.

    With model.fuser.null_condition=empty_prompt, and model.fuser.stabilizer=false or stabilizer_join=residual, it
    generates exactly what its base generates. `mimir doctor` says what each recipe's base takes of a GPU.
    """
    model = load_recipe(recipe, assignments, files).model
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {str(out)!r} exists and is not an empty directory; name a new directory")
    require_writable(str(out), "--out")
    require_models(model)

    from mimir_ray.model.pipeline import MimirPipeline

    silence_loading_bars()
    MimirPipeline.from_model_config(model).save_pretrained(out)
    results.print(f"{out}: a fresh Mimir on {model.base}")
