"""The checkpoints that ship with the package."""

from collections.abc import Iterator
from pathlib import Path

from mimir_ray.cli.checks.finding import Finding, failure, ok


def shipped() -> Iterator[Finding]:
    """The embedded base model and the finished Mimir on it."""
    from mimir_ray.shapes.weights import base_dir, mimir_dir

    for name, directory in (("base", Path(base_dir())), ("mimir", Path(mimir_dir()))):
        size = sum(file.stat().st_size for file in directory.rglob("*.safetensors"))
        if size and (directory / "model_index.json").is_file():
            yield ok("weights", f"{name}: {size / 1e6:.1f} MB at {directory}")
        else:
            yield failure(
                "weights",
                f"{name}: incomplete at {directory}",
                "reinstall mimir-ray, or make them: mimir shapes pretrain",
            )
