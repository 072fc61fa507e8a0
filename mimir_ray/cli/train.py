"""`mimir train`: fine-tune the token fuser and the video transformer."""

from typing import Annotated

import typer

from mimir_ray.cli.console import register, results
from mimir_ray.cli.options import Assignments, RayAddress, RecipeName, load_recipe
from mimir_ray.cli.paths import require, require_checkpoint


def add_to(app: typer.Typer) -> None:
    """Register the verb of this module."""
    register(
        app,
        "train",
        continues=True,
        examples=[
            "mimir train --data runs/mine/data --out runs/mine/train",
            "mimir train --data s3://b/data --out s3://b/train --recipe mimir_5b",
            "mimir train --data D --out O --set training.learning_rate=1e-4",
            "mimir train --data D --out O --no-cache",
        ],
    )(train)


def train(
    data: Annotated[str, typer.Option("--data", help="Data root that `mimir curate` and `mimir precompute` filled.")],
    out: Annotated[str, typer.Option("--out", help="Checkpoints, metrics.jsonl and the finished model (export/).")],
    recipe: RecipeName = "shapes",
    assignments: Assignments = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Encode the clips first, in memory; for a few that only were curated.")
    ] = False,
    address: RayAddress = None,
) -> None:
    """Fine-tune the token fuser and the video transformer with Ray Train and DeepSpeed ZeRO."""
    configuration = load_recipe(recipe, assignments)
    require(data, "--data", "write it with `mimir curate` and `mimir precompute`")
    require_checkpoint(configuration.model.base)

    from mimir_ray.cli.ray_cluster import connect
    from mimir_ray.cli.training_line import TrainingLine
    from mimir_ray.precompute import encode_in_memory
    from mimir_ray.training import train as run

    connect(address)
    source = encode_in_memory(data, configuration.model, configuration.precompute) if no_cache else None
    with TrainingLine(configuration.training.steps) as line:
        summary = run(data, out, configuration.model, configuration.training, source=source, on_metrics=line)
    before = " (it had finished before)" if summary.already_finished else ""
    results.print(
        f"{summary.export}: {summary.steps} steps on {summary.clips} clips{before}, "
        f"loss {summary.first_loss:.4f} -> {summary.last_loss:.4f}",
        markup=False,
    )
