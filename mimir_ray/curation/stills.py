"""A clip at a glance: its first, its middle and its last frame, small."""

import io
import os

from mimir_ray.curation.tables import Row
from mimir_ray.storage import LatestCopy
from mimir_ray.video import VideoError, read_frames

MAX_WIDTH_PX, MAX_HEIGHT_PX = 120, 90
TIMEOUT_S = 20.0
"""Wall time that a decoder may take over one clip; the page is not worth more."""


def stills(clip: Row, copies: LatestCopy) -> list[bytes]:
    """Three JPEGs of a clip (columns of `clips`). Raises what reading its file raises."""
    from PIL import Image

    last = clip["frames"] - 1
    span = clip["first_frame"], clip["first_frame"] + clip["frames"]
    path, wanted = copies.of(clip["path"]), [0, last // 2, last]
    if os.path.getsize(path) != clip["size_bytes"]:
        raise VideoError(f"has changed since it was curated, when it had {clip['size_bytes']:,} bytes: curate it again")
    read = read_frames(path, wanted, span=span, timeout_s=TIMEOUT_S, short_side_px=MAX_HEIGHT_PX)
    made = []
    for frame_HWC in read.frames:
        picture = Image.fromarray(frame_HWC)
        picture.thumbnail((MAX_WIDTH_PX, MAX_HEIGHT_PX))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=75)
        made.append(stream.getvalue())
    return made
