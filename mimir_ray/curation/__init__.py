"""Raw videos to the `videos`, `clips` and `captions` tables: the rules of the paper's appendix A on Ray Data."""

from mimir_ray.curation.config import CurationConfig
from mimir_ray.curation.pipeline import curate
from mimir_ray.curation.report import write_report
from mimir_ray.curation.summary import CurationSummary, losses, render

__all__ = ["CurationConfig", "CurationSummary", "curate", "losses", "render", "write_report"]
