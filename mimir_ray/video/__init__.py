"""Video files: write, probe, read and cut them, whatever is inside. A leaf that every room may import."""

from mimir_ray.video.errors import VideoError
from mimir_ray.video.probe import VideoInfo, probe
from mimir_ray.video.read import Frames, cut_clip, read_frames, read_info, read_shots
from mimir_ray.video.write import encode_mp4, write_mp4

__all__ = [
    "Frames",
    "VideoError",
    "VideoInfo",
    "cut_clip",
    "encode_mp4",
    "probe",
    "read_frames",
    "read_info",
    "read_shots",
    "write_mp4",
]
