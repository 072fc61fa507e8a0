"""Video files: write, probe and read them, whatever is inside. A leaf that every room may import."""

from mimir_ray.video.errors import VideoError
from mimir_ray.video.write import encode_mp4, write_mp4

__all__ = ["VideoError", "encode_mp4", "write_mp4"]
