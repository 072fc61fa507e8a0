"""Entry points of `ray job submit -- python -m jobs.VERB`: a thin module per verb, with `mimir VERB`'s options."""

import sys

from mimir_ray.cli import main


def run(verb: str) -> None:
    """Run `mimir VERB` with this process's arguments and leave with its exit code."""
    main([verb, *sys.argv[1:]])
