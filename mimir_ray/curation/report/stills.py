"""A clip at a glance: its first, its middle and its last frame, small."""

import io

from mimir_ray.curation.frames import clip_frames
from mimir_ray.dataflow import Row
from mimir_ray.storage import LatestCopy, why_other
from mimir_ray.video import VideoError

MAX_WIDTH_PX, MAX_HEIGHT_PX = 120, 90
TIMEOUT_S, SECONDS_PER_SECOND = 20.0, 0.2
"""Wall time that a decoder may take over one clip, and more for each second before it: the page is not worth longer."""


def stills(clip: Row, copies: LatestCopy) -> list[bytes]:
    """Three JPEGs of a clip (columns of `clips`). Raises what reading its file raises."""
    from PIL import Image

    last = clip["frames"] - 1
    if why := why_other(clip["path"], clip["size_bytes"]):
        raise VideoError(why)
    path, wanted = copies.of(clip["path"]), [0, last // 2, last]
    frames_FHWC = clip_frames(
        path,
        clip,
        wanted,
        timeout_s=TIMEOUT_S,
        seconds_per_second=SECONDS_PER_SECOND,
        short_side_px=MAX_HEIGHT_PX,
    )
    made = []
    for frame_HWC in frames_FHWC:
        picture = Image.fromarray(frame_HWC)
        picture.thumbnail((MAX_WIDTH_PX, MAX_HEIGHT_PX))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=75)
        made.append(stream.getvalue())
    return made
