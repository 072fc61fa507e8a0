"""What `mimir doctor` looks at: each function of these modules yields findings about one subject."""

from mimir_ray.cli.checks.finding import Finding

__all__ = ["Finding"]
