"""What a curation is given: videos in folders, stores, tars and lists, and what people have said about them."""

from mimir_ray.curation.sources.discover import Discovery, discover
from mimir_ray.curation.sources.file import SourceFile, captions_of_source
from mimir_ray.curation.sources.notes import Notes
from mimir_ray.curation.sources.plan import plan
from mimir_ray.curation.sources.row import Caption, GivenSpan

__all__ = ["Caption", "Discovery", "GivenSpan", "Notes", "SourceFile", "captions_of_source", "discover", "plan"]
