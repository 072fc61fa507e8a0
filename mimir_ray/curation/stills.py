"""A clip at a glance: its first, its middle and its last frame, small."""

import io

from mimir_ray.curation.tables import Row
from mimir_ray.storage import local_copy
from mimir_ray.video import read_frames

MAX_WIDTH_PX, MAX_HEIGHT_PX = 120, 90
TIMEOUT_S = 20.0
"""Wall time that a decoder may take over one clip; the page is not worth more."""


def stills(clip: Row) -> list[bytes]:
    """Three JPEGs of a clip (columns of `clips`). Raises what reading its file raises."""
    from PIL import Image

    last = clip["frames"] - 1
    span = clip["first_frame"], clip["first_frame"] + clip["frames"]
    with local_copy(clip["path"]) as path:
        read = read_frames(path, [0, last // 2, last], span=span, timeout_s=TIMEOUT_S, short_side_px=MAX_HEIGHT_PX)
    made = []
    for frame_HWC in read.frames:
        picture = Image.fromarray(frame_HWC)
        picture.thumbnail((MAX_WIDTH_PX, MAX_HEIGHT_PX))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=75)
        made.append(stream.getvalue())
    return made
