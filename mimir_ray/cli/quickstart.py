"""`mimir quickstart`: the whole road on the embedded world."""

from pathlib import Path
from typing import Annotated

import typer

from mimir_ray.cli.console import register
from mimir_ray.cli.options import RayAddress
from mimir_ray.cli.paths import require


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
        Path | None, typer.Option("--videos", help="A folder of your own videos to send down the road as well.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where every stage writes.")] = Path("runs/quickstart"),
    address: RayAddress = None,
) -> None:
    """Run the whole road on this machine: clips, curation, precompute, fine-tuning, generation, scores and a report.

    Needs no GPU, network or downloaded weight, and about six minutes on two cores. Finished stages are reused.
    """
    if videos is not None:
        require(str(videos), "--videos", "name a folder of video files")

    from mimir_ray.cli.ray_cluster import connect
    from mimir_ray.quickstart.run import run

    connect(address)
    run(out, videos)
