"""The machine: Python, cores, disk, compiler."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from mimir_ray import __version__
from mimir_ray.cli.checks.finding import Finding, failure, ok, warning

LEAST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 5 * 10**9


def python() -> Iterator[Finding]:
    """The interpreter, our version, the processors."""
    version = platform.python_version()
    if sys.version_info < LEAST_PYTHON:
        yield failure("python", f"{version} is too old", "install Python 3.11 or newer")
    else:
        yield ok("python", f"{version}, mimir_ray {__version__}, {platform.system()} {platform.machine()}")
    yield ok("processors", f"{os.cpu_count()} logical CPUs")


def disk() -> Iterator[Finding]:
    """Room for runs here, and for Ray's object store and spills in its temporary folder."""
    for place in (Path.cwd(), Path(os.environ.get("RAY_TMPDIR", "/tmp"))):
        free = shutil.disk_usage(place).free
        detail = f"{free / 1e9:.0f} GB free at {place}"
        if free < LEAST_FREE_BYTES:
            yield warning("disk", detail, f"free at least {LEAST_FREE_BYTES / 1e9:.0f} GB; Ray spills there")
        else:
            yield ok("disk", detail)


def compiler() -> Iterator[Finding]:
    """A C++ compiler and ninja, with which DeepSpeed builds its faster operators when they are first used."""
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if missing:
        yield warning(
            "compiler",
            f"{' and '.join(missing)} not found; training works, without DeepSpeed's compiled operators (CPU offload)",
            "install them: apt install g++ ninja-build",
        )
    else:
        yield ok("compiler", "g++ and ninja")
