"""`mimir serve`: the model behind an HTTP endpoint on Ray Serve."""

import typer

from mimir_ray.cli.console import register


def add_to(app: typer.Typer) -> None:
    """Register the verb of this module."""
    register(app, "serve", examples=["mimir serve"])(serve)


def serve() -> None:
    """Serve."""
