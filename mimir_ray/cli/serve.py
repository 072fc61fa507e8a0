"""`mimir serve`: the model behind an HTTP endpoint on Ray Serve."""

import json
from typing import Annotated

import typer

from mimir_ray.cli.options import (
    Assignments,
    ConfigFiles,
    Loras,
    RayAddress,
    RecipeName,
    load_recipe,
    lora_assignments,
)
from mimir_ray.cli.paths import require_checkpoint, require_writable, shipped_checkpoint
from mimir_ray.cli.verb import register


def add_to(app: typer.Typer) -> None:
    """Register the verb of this module."""
    register(
        app,
        "serve",
        examples=[
            "mimir serve",
            "mimir serve --model runs/mine/train/export --port 8080",
            "mimir serve --recipe mimir_5b --model /models/mimir-5b",
        ],
    )(serve)


def serve(
    model: Annotated[
        str | None, typer.Option("--model", help="Checkpoint directory or hub id; the shipped Mimir by default.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; this machine alone by default.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="8000 by default.")] = None,
    out: Annotated[str | None, typer.Option("--out", help="Where finished videos are kept.")] = None,
    lora: Loras = None,
    recipe: RecipeName = "shapes",
    files: ConfigFiles = None,
    assignments: Assignments = None,
    address: RayAddress = None,
) -> None:
    """Serve text-to-video over HTTP, with a page to try it, until Ctrl-C.

    POST /v1/videos starts a video, GET /v1/videos/ID tells its progress, GET /v1/videos/ID/content is the mp4. What is
    set for generation holds here too.
    """
    chosen = {"host": host, "port": port, "out": out}
    given = [f"serving.{field}={json.dumps(value)}" for field, value in chosen.items() if value is not None]
    configuration = load_recipe(recipe, [*(assignments or []), *given, *lora_assignments(lora)], files)
    config = configuration.endpoint(shipped_checkpoint(configuration) if model is None else require_checkpoint(model))

    require_writable(config.out, "--out")

    from mimir_ray.cli.ray_cluster import connect
    from mimir_ray.serving.app import check_port, run

    check_port(config)
    connect(address)
    run(config)
