"""The scores that need no model, for clips that lack them: those of a file in one pass over it.

Clips that have just been found have theirs already: `split` watches a file once for both.
"""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

from mimir_ray.curation.config import CurationConfig
from mimir_ray.curation.spans import KnownSpans
from mimir_ray.curation.tables import Row
from mimir_ray.curation.watch import watch
from mimir_ray.storage import local_copy
from mimir_ray.video import VideoError


def measure_clips(clips: Sequence[Row], config: CurationConfig) -> list[Row]:
    """Scores of clips as columns of `clips`. Raises VideoError."""
    scores: list[Row] = []
    for location, members in groupby(clips, key=lambda clip: str(clip["path"])):
        spans = [(clip["first_frame"], clip["first_frame"] + clip["frames"]) for clip in members]
        known = KnownSpans(spans, in_seconds=False)
        with local_copy(location) as path:
            watched = watch(path, known, None, config, to_the_end=False)
        if known.found(frames := len(watched.meter.times_s)) != spans:
            wanted = max(end for _, end in spans)
            raise VideoError(f"has {frames} frames, of which clips need {wanted}: it has changed since it was split")
        scores += [asdict(watched.meter.scores(*span)) | {"decoder": "pyav"} for span in spans]
    return scores
