"""The whole road on the embedded shapes world, from rendered clips to a report, as a short sequence of the jobs."""

from mimir_ray.quickstart.config import QuickstartConfig
from mimir_ray.quickstart.run import run

__all__ = ["QuickstartConfig", "run"]
