"""Video files: what a viewer sees of them, whatever is inside. A leaf that every room may import.

Every frame that this package hands out comes from the stream that players show, in the order and at the times at which
they show it, upright, in square pixels, in SDR with BT.709 colours, and without the combs of interlace.
"""

from mimir_ray.video.cut import Cut, Timing
from mimir_ray.video.errors import VideoError
from mimir_ray.video.probe import VideoInfo, mean_fps, probe
from mimir_ray.video.read import (
    Frames,
    allowed_s,
    cut_clip,
    make_clip,
    read_frames,
    read_info,
    read_shots,
    scan_video,
)
from mimir_ray.video.scan import Promise, Shown, View
from mimir_ray.video.shots import ShotFinder
from mimir_ray.video.write import encode_mp4, write_mp4

__all__ = [
    "Cut",
    "Frames",
    "Promise",
    "ShotFinder",
    "Shown",
    "Timing",
    "VideoError",
    "VideoInfo",
    "View",
    "allowed_s",
    "cut_clip",
    "encode_mp4",
    "make_clip",
    "mean_fps",
    "probe",
    "read_frames",
    "read_info",
    "read_shots",
    "scan_video",
    "write_mp4",
]
