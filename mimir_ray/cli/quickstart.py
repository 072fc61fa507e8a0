"""`mimir quickstart`: the whole road on the embedded world."""

from pathlib import Path
from typing import Annotated

import typer

from mimir_ray.cli.options import Assignments, ConfigFiles, RayAddress, load_recipe
from mimir_ray.cli.paths import require, require_models, require_writable
from mimir_ray.cli.verb import register
from mimir_ray.console import results


def add_to(app: typer.Typer) -> None:
    """Register the verb of this module."""
    register(
        app,
        "quickstart",
        continues=True,
        examples=["mimir quickstart", "mimir quickstart --videos ~/videos --out runs/mine"],
    )(quickstart)


def quickstart(
    videos: Annotated[
        Path | None, typer.Option("--videos", help="A folder of your own videos to curate and encode as well.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where every stage writes.")] = Path("runs/quickstart"),
    clips: Annotated[
        int | None, typer.Option("--clips", min=1, help="Clips to render; fewer for a quick look.")
    ] = None,
    prompts: Annotated[int | None, typer.Option("--prompts", min=6, help="Evaluation prompts of each list.")] = None,
    files: ConfigFiles = None,
    assignments: Assignments = None,
    address: RayAddress = None,
) -> None:
    """Run the whole road on this machine: clips, curation, precompute, fine-tuning, generation, scores and a report.

    Needs no GPU, network or downloaded weight, and about six minutes on two cores. Finished stages are reused.
    """
    if videos is not None:
        require(str(videos), "--videos", "name a folder of video files")
    recipe = load_recipe("shapes", assignments, files)
    require_writable(str(out), "--out")
    require_models(recipe.model)

    from mimir_ray.cli.ray_cluster import connect
    from mimir_ray.quickstart.config import QuickstartConfig
    from mimir_ray.quickstart.run import run

    connect(address)
    chosen = {"clips": clips, "prompts": prompts}
    config = QuickstartConfig(**{field: value for field, value in chosen.items() if value is not None})
    report = run(out, videos, config, recipe)
    results.print(f"{report}\n{report.with_name('contact_sheet.png')}", markup=False)
