"""`mimir train`: fine-tune the token fuser and the video transformer."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from mimir_ray.cli.options import Assignments, ConfigFiles, RayAddress, RecipeName, load_recipe
from mimir_ray.cli.paths import require, require_checkpoint, require_models, require_writable
from mimir_ray.cli.verb import register
from mimir_ray.config import UserError
from mimir_ray.console import Report, print_whole, progress_line, results

if TYPE_CHECKING:
    from mimir_ray.recipes import Recipe
    from mimir_ray.training.reporting.metrics import MetricsRow


def add_to(app: typer.Typer) -> None:
    """Register the verb of this module."""
    register(
        app,
        "train",
        continues=True,
        examples=[
            "mimir train --data runs/mine/data --out runs/mine/train --recipe mimir_2b",
            "mimir train --data s3://b/data --out s3://b/train --recipe mimir_5b",
            "mimir train --data D --out O --set training.learning_rate=1e-4",
            "mimir train --data D --out O --recipe mimir_5b --config run.yaml",
            "mimir train --data D --out O --no-cache",
            "mimir train --estimate --recipe mimir_5b --gpu H100",
        ],
    )(train)


def _needed(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    if not value and not context.params.get("estimate") and not context.resilient_parsing:
        raise typer.BadParameter("it is missing; only --estimate does without", param_hint=f"--{parameter.name}")
    return value


def train(
    data: Annotated[
        str, typer.Option(callback=_needed, help="Data root that `mimir curate` and `mimir precompute` filled.")
    ] = "",
    out: Annotated[
        str, typer.Option(callback=_needed, help="Checkpoints, metrics.jsonl and the finished model (export/).")
    ] = "",
    recipe: RecipeName = "shapes",
    files: ConfigFiles = None,
    assignments: Assignments = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Encode the clips first, in memory; for a few that only were curated.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", is_eager=True, help="Say what it will take, and run nothing.")
    ] = False,
    gpu: Annotated[str | None, typer.Option(help="GPU that the estimate is for; H100 unless given.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Estimate for so many GPUs alone.")] = None,
    address: RayAddress = None,
) -> None:
    """Fine-tune the token fuser and the video transformer with Ray Train and DeepSpeed ZeRO."""
    configuration = load_recipe(recipe, assignments, files)
    if estimate:
        from mimir_ray.model.published import described

        require_checkpoint(described(configuration.model).base)
        _estimate(configuration, gpu or "H100", workers)
        return
    if gpu or workers:
        raise UserError(
            "--gpu and --workers are for --estimate; a run takes its workers from the recipe "
            "(--set training.workers=8): add --estimate or drop them"
        )
    require(data, "--data", "write it with `mimir curate` and `mimir precompute`")
    require_writable(out, "--out")
    require_models(configuration.model)

    from mimir_ray.cli.preflight import check_tables

    if not no_cache:
        check_tables(data, configuration.model, configuration.precompute)

    from mimir_ray.cli.ray_cluster import connect
    from mimir_ray.cli.scene_scorer import scorer_for
    from mimir_ray.precompute import encode_in_memory
    from mimir_ray.training import train as run
    from mimir_ray.training.reporting.metrics import loss_text

    connect(address)
    encode = partial(encode_in_memory, data, configuration.model, configuration.precompute)
    steps = configuration.training.steps
    with progress_line("training", "steps") as report:
        if report:
            report(0, steps, "starting")
        summary = run(
            data,
            out,
            configuration.model,
            configuration.training,
            source=encode if no_cache else None,
            on_metrics=partial(_show, report, steps) if report else None,
            generation=configuration.generation,
            scorer=scorer_for(configuration),
        )
    before = " (it had finished before)" if summary.already_finished else ""
    results.print(
        f"{summary.export}: {summary.steps} steps on {summary.clips} clips{before}, "
        f"loss {loss_text(summary.first_loss)} -> {loss_text(summary.last_loss)}",
        markup=False,
    )


def _show(report: Report, steps: int, row: "MetricsRow") -> None:
    from mimir_ray.training.reporting.metrics import row_text

    report(row["step"], steps, row_text(row))


def _estimate(recipe: "Recipe", gpu: str, workers: int | None) -> None:
    from rich.table import Table

    from mimir_ray.cli.training_estimate import NOTE, columns, rows

    made = rows(recipe, gpu, [workers] if workers else None)
    title = f"{recipe.name}: {recipe.training.steps:,} steps of {recipe.training.batch_size}, GiB a GPU"
    table = Table(title=title, title_justify="left")
    for name in columns(gpu):
        table.add_column(name, justify="right")
    for row in made:
        table.add_row(*row)
    print_whole(table)
    results.print(NOTE)
