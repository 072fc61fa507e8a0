"""Running `mimir` in tests: in this process, or as a user would."""

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from mimir_ray.cli import app

ROOT = Path(__file__).parents[2]


def mimir(*arguments: str) -> Result:
    """Run a verb in this process; an exception that is not an exit is left in `result.exception`."""
    return CliRunner().invoke(app, list(arguments), prog_name="mimir", env={"COLUMNS": "200"})


def run_python(*arguments: str, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
    """Run Python in the repository's root."""
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s
    )
