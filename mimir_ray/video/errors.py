"""What can go wrong with a video, in words that a person understands."""


class VideoError(Exception):
    """A video could not be probed, read or written. The message says why, without a traceback."""
