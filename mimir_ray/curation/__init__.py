"""Raw videos to the `videos`, `clips` and `captions` tables: the rules of the paper's appendix A on Ray Data."""

from mimir_ray.curation.config import CurationConfig
from mimir_ray.curation.export import ExportSummary, export_clips, require_apart
from mimir_ray.curation.pipeline import curate
from mimir_ray.curation.report.page import write_report
from mimir_ray.curation.summary import CurationSummary, losses, render

__all__ = [
    "CurationConfig",
    "CurationSummary",
    "ExportSummary",
    "curate",
    "export_clips",
    "losses",
    "render",
    "require_apart",
    "write_report",
]
