"""The scores that need no model, for clips that lack them: those of a video in one pass over it.

Clips that have just been found have theirs already: `split` watches a file once for both.
"""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

from mimir_ray.curation.config import CurationConfig
from mimir_ray.curation.meter import Meter
from mimir_ray.curation.spans import KnownSpans
from mimir_ray.curation.split import failure
from mimir_ray.curation.watch import watch
from mimir_ray.dataflow import Row
from mimir_ray.storage import local_copy
from mimir_ray.video import VideoError


def measure_clips(clips: Sequence[Row], config: CurationConfig) -> list[Row]:
    """Scores of clips as columns of `clips`, or why there are none: what lies behind a damage has that for a reason."""
    by_video = groupby(clips, key=lambda clip: str(clip["path"]))
    return [row for location, members in by_video for row in _of_video(location, list(members), config)]


def _of_video(location: str, clips: Sequence[Row], config: CurationConfig) -> list[Row]:
    spans = [(clip["first_frame"], clip["first_frame"] + clip["frames"]) for clip in clips]
    known, meter = KnownSpans(spans, in_seconds=False), Meter(config.measures)
    why: Exception | None = None
    try:
        with local_copy(location) as path:
            watch(path, known, None, config, meter=meter, to_the_end=False)
    except Exception as error:
        why = error
        meter.end_all()
    frames = len(meter.times_s)
    rows: list[Row] = []
    for span, found in zip(spans, known.found(frames), strict=True):
        if found == span:
            rows.append(asdict(meter.scores(*span)))
        else:
            short = f"has {frames} frames, of which the clip needs {span[1]}: it has changed since it was split"
            rows.append(failure("measure", why or VideoError(short), location))
    return rows
