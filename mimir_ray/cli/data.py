"""`mimir curate`, `mimir curate report` and `mimir precompute`: from raw videos to what training reads."""

import glob
from typing import TYPE_CHECKING, Annotated

import typer

from mimir_ray.cli.options import Assignments, ConfigFiles, Overwrite, RayAddress, RecipeName, load_recipe
from mimir_ray.cli.paths import require, require_checkpoint, require_models, require_writable
from mimir_ray.cli.verb import FAILED, register, report_mistake
from mimir_ray.config import UserError
from mimir_ray.console import progress_line, results, status

if TYPE_CHECKING:
    from mimir_ray.recipes import Recipe

FIRST_REASONS = 3
Retry = Annotated[bool, typer.Option("--retry-quarantined", help="Try again what could not be processed.")]
_ANEW = "Replace tables that another configuration made; where none is of another, encode everything anew."


def add_to(app: typer.Typer) -> None:
    """Register the verbs of this module."""
    register(
        app,
        "curate",
        continues=True,
        examples=[
            "mimir curate ~/videos --out runs/mine/data --recipe mimir_2b",
            "mimir curate /data/raw --out s3://bucket/data --recipe mimir_5b",
            "mimir curate ~/videos --out runs/mine/data --recipe mimir_2b --export ~/clips",
        ],
    )(curate)
    register(
        app,
        "curate report",
        examples=["mimir curate report runs/mine/data", "mimir curate report s3://bucket/data"],
    )(report)
    register(
        app,
        "precompute",
        continues=True,
        examples=[
            "mimir precompute --data runs/mine/data --recipe mimir_2b",
            "mimir precompute --data runs/mine/data --recipe mimir_2b --retry-quarantined",
            "mimir precompute --data runs/sample/data --estimate --clips 500000",
            "mimir precompute --estimate --clips 500000 --recipe mimir_5b",
            "mimir precompute --data s3://bucket/data --recipe mimir_5b",
        ],
    )(precompute)


def curate(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Folders, files, tars or lists of videos, local or s3://."),
    ],
    out: Annotated[
        str,
        typer.Option("--out", help="Data root: its tables then hold exactly these sources."),
    ],
    recipe: RecipeName = "shapes",
    files: ConfigFiles = None,
    assignments: Assignments = None,
    export: Annotated[
        str | None, typer.Option("--export", metavar="DIR", help="Write the clips that are kept there, as mp4 files.")
    ] = None,
    overwrite: Overwrite = False,
    retry: Retry = False,
    address: RayAddress = None,
) -> None:
    """Cut videos into clips, keep what passes the rules of the paper's Appendix A, and say why the rest did not.

    `mimir curate report DIR` makes a page about the outcome.
    """
    config = load_recipe(recipe, assignments, files).curation
    for source in sources:
        if not glob.has_magic(source):
            require(source, "the source", "name a folder of videos, a video file, a list or a glob")
    require_writable(out, "--out")
    if export is not None:
        require_writable(export, "--export")

    from mimir_ray.cli.ray_cluster import connect
    from mimir_ray.curation import curate as run
    from mimir_ray.curation import export_clips, render, require_apart

    if export is not None:
        require_apart(export, sources, out)
    connect(address)
    with progress_line("curating", "shards") as progress:
        summary = run(sources, out, config, overwrite=overwrite, retry_quarantined=retry, progress=progress)
    results.print(render(summary))
    if export is None:
        return
    with progress_line("exporting", "shards") as progress:
        exported = export_clips(out, export, config, overwrite=overwrite, progress=progress)
    results.print(exported.line, markup=False)
    for reason, count in list(exported.failed.items())[:FIRST_REASONS]:
        results.print(f"  {count} failed: {reason}", markup=False)
    if len(exported.failed) > FIRST_REASONS:
        results.print(f"  and {len(exported.failed) - FIRST_REASONS} more reasons", markup=False)
    if exported.failed:
        raise typer.Exit(FAILED)


def report(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Data root that `mimir curate` wrote.")],
) -> None:
    """Write DIR/report.html: what a finished curation kept and why the rest went, with charts and frames of clips.

    The page needs no network and can be passed on. (To curate a folder that is called report, write ./report.)
    """
    require_writable(require(directory, "DIR", "write it with `mimir curate SOURCE... --out DIR`"), "DIR")

    from mimir_ray.curation import write_report

    with status.status(f"reading {directory}"):
        page = write_report(directory)
    results.print(page, markup=False)


def _needed(context: typer.Context, value: str) -> str:
    without = context.params.get("estimate") and context.params.get("clips")
    if not value and not without and not context.resilient_parsing:
        raise typer.BadParameter("it is missing; only --estimate with --clips does without", param_hint="--data")
    return value


def precompute(
    data: Annotated[
        str,
        typer.Option(callback=_needed, help="Data root that `mimir curate` wrote; the tables go there too."),
    ] = "",
    recipe: RecipeName = "shapes",
    files: ConfigFiles = None,
    assignments: Assignments = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=_ANEW)] = False,
    retry: Retry = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", is_eager=True, help="Say what it will take, and run nothing.")
    ] = False,
    clips: Annotated[
        int | None,
        typer.Option(min=1, is_eager=True, help="Estimate for so many clips like those of --data, if it is given."),
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="GPU that the estimate is for; H100 unless given.")] = None,
    address: RayAddress = None,
) -> None:
    """Encode clips to latents and captions to T5, LLM and instruction tokens, once, before training.

    A video that was away is tried again by the next run. Ends with 1 where nothing could be encoded.
    """
    configuration = load_recipe(recipe, assignments, files)
    if data:
        require(data, "--data", "write it with `mimir curate SOURCE --out DATA`")
    if estimate:
        _require_described(configuration)
        _estimate(data, configuration, clips, gpu or "H100")
        return
    if clips or gpu:
        raise UserError("--clips and --gpu are for --estimate; without it everything is encoded: add it or drop them")
    require_writable(data, "--data")
    require_models(configuration.model)

    from mimir_ray.cli.ray_cluster import connect
    from mimir_ray.precompute import precompute as run
    from mimir_ray.precompute import render

    connect(address)
    with progress_line("encoding", "shards") as progress:
        summary = run(
            data,
            configuration.model,
            configuration.precompute,
            overwrite=overwrite,
            retry_quarantined=retry,
            progress=progress,
        )
    results.print(render(summary))
    if summary.nothing:
        report_mistake(UserError(summary.nothing))
        raise typer.Exit(FAILED)


def _require_described(recipe: "Recipe") -> None:
    """Of what the recipes name the shapes ship here, and the hub need not be asked."""
    from mimir_ray.model.published import described

    require_checkpoint(described(recipe.model).base)


def _estimate(data: str, recipe: "Recipe", clips: int | None, gpu: str) -> None:
    from rich.table import Table

    from mimir_ray.precompute import estimate

    made = estimate(data or None, recipe.model, recipe.precompute, clips=clips, gpu=gpu)
    table = Table(
        title=f"{made.clips:,} clips, {made.captions:,} captions, {made.shards:,} shards", title_justify="left"
    )
    for column in ("table", "GB", f"{gpu} hours"):
        table.add_column(column, justify="left" if column == "table" else "right")
    for name, size in made.bytes_by_table.items():
        table.add_row(name, f"{size / 1e9:,.2f}", f"{made.gpu_hours_by_table[name]:,.2f}")
    total = sum(made.bytes_by_table.values()), sum(made.gpu_hours_by_table.values())
    table.add_row("all", f"{total[0] / 1e9:,.2f}", f"{total[1]:,.2f}")
    results.print(table)
    results.print(
        f"A shard of the largest table has {made.shard_bytes / 2**20:,.1f} MiB. Every answer is taken to be as long as "
        "it may be, every batch to be full, and a GPU to reach two fifths of its peak."
        + ("" if data else " Without --data each clip has one caption, and the size of the recipe.")
    )
