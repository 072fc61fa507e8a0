"""`mimir export`: a checkpoint of a training run becomes a model that any diffusers user can load."""

from typing import Annotated

import typer

from mimir_ray.cli.paths import require, require_writable
from mimir_ray.cli.verb import register
from mimir_ray.config import UserError
from mimir_ray.console import results, silence_loading_bars, status


def add_to(app: typer.Typer) -> None:
    """Register the verb of this module."""
    register(
        app,
        "export",
        examples=[
            "mimir export runs/mine/train",
            "mimir export runs/mine/train --raw --step 400 --out runs/mine/step-400",
            "mimir export s3://bucket/lora --unmerged --out adapters",
            "mimir export runs/mine/train --adapter --push me/my-mimir",
        ],
    )(export)


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The --out of `mimir train`.")],
    out: Annotated[str | None, typer.Option("--out", help="Where the model goes; RUN/export unless given.")] = None,
    average: Annotated[
        bool | None,
        typer.Option(
            "--ema/--raw",
            help="The moving average of the weights, or the weights; without either the average if the run keeps one.",
            show_default=False,
        ),
    ] = None,
    step: Annotated[int | None, typer.Option(min=1, help="Of the checkpoint; the last one unless given.")] = None,
    unmerged: Annotated[
        bool, typer.Option("--unmerged", help="Keep the adapters of training.train=lora apart from the weights.")
    ] = False,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Adapters and token fuser alone, for --lora; RUN/adapter unless --out.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="REPO", help="Upload it to the hub; a repository that is new is private."),
    ] = None,
) -> None:
    """Write a checkpoint of a run in diffusers' layout, for `MimirPipeline.from_pretrained` and every verb here."""
    require(run, "RUN", "name what `mimir train --out` wrote")
    if unmerged and adapter:
        raise UserError("--unmerged is a whole model and --adapter a part of one: give one of them")
    require_writable(out or run, "--out")

    from mimir_ray.training.export import export_run, hub

    silence_loading_bars()
    if push is not None:
        hub.require_writable(push, out or run)
    with status.status(f"reading {run}"):
        target = export_run(
            run, out, average=average, step=step, form="adapter" if adapter else "unmerged" if unmerged else "merged"
        )
    results.print(target, markup=False)
    if push is not None:
        with status.status(f"uploading to {push}"):
            url = hub.push(target, push)
        results.print(url, markup=False)
