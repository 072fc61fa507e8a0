"""A file as FFmpeg opens it: which of its streams is the video, and the frames that a decoder gives of it, in order.

It runs in the calling process, which a decoder may take down; `mimir_ray.video.read` runs it in a child.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import av.error

from mimir_ray.video.errors import VideoError
from mimir_ray.video.whole import REMEDY, check_complete

OPEN_OPTIONS = {"protocol_whitelist": "file"}  # a playlist with a video's name must not reach other hosts
DECODE_ERRORS = (av.error.FFmpegError, OSError, ValueError)
"""What PyAV raises where a file is damaged."""


@contextmanager
def opened(path: str | Path) -> "Iterator[tuple[av.container.InputContainer, av.VideoStream]]":
    """A complete file and its video stream, to be decoded by one thread. Raises VideoError and DECODE_ERRORS."""
    size_bytes = size_of_file(path)
    with av.open(str(path), options=OPEN_OPTIONS, metadata_errors="replace") as container:
        check_complete(container.name, formats(container), size_bytes)
        stream = video_stream(container)
        stream.thread_count = 1
        yield container, stream


def video_stream(container: "av.container.InputContainer") -> "av.VideoStream":
    """The stream that FFmpeg's players show: the one marked as default, then that of the higher bit rate, then the
    first; never a cover. Raises VideoError.
    """
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.disposition & stream.disposition.attached_pic:
        kinds = sorted({s.type for s in container.streams if s.type != "video"})
        raise VideoError(f"holds no video stream, only {' and '.join(kinds) or 'nothing'}")
    if stream.codec_context is None:
        raise VideoError("holds a video stream in a codec that FFmpeg does not know")
    return stream


def decoded(packets: "Iterable[av.Packet[av.VideoStream]]") -> "Iterator[av.VideoFrame]":
    """The frames that a decoder shows of `packets`. What cannot be decoded before the first of them is passed over, as
    players do with a recording that begins between two keyframes. Raises DECODE_ERRORS for what comes later.
    """
    shown = False
    for packet in packets:
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if shown:
                raise
            continue
        for frame in frames:
            shown = True
            yield frame


def formats(container: "av.container.InputContainer") -> set[str]:
    """The names of the container's format; FFmpeg reads mov and mp4 as one, and matroska and webm."""
    return set(container.format.name.split(","))


def size_of_file(path: str | Path) -> int:
    """Bytes of a file that can be read. Raises VideoError."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise VideoError(f"cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise VideoError("is not a regular file")
    if status.st_size == 0:
        raise VideoError("the file is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise VideoError("cannot be opened: permission denied")
    return status.st_size


def damaged(seen: int, error: Exception) -> VideoError:
    """The error for a video of which `seen` frames could be decoded before one could not."""
    return VideoError(f"damaged: decoding stops at frame {seen} ({error}); {REMEDY}")


def nothing_shown() -> VideoError:
    """The error for a video of which no frame can be decoded."""
    return VideoError(f"no frame can be decoded: the file is damaged or cut off; {REMEDY}")


def explained(error: Exception, path: str | Path) -> VideoError:
    """Why a file cannot be opened, or nothing of it decoded, in words."""
    if isinstance(error, av.error.InvalidDataError):
        with open(path, "rb") as file:
            if file.read(8)[4:] == b"ftyp":
                return VideoError(
                    f"starts as an mp4 whose index (moov) is missing or damaged: cut off, or never finished; {REMEDY}"
                )
        return VideoError("is not a video that FFmpeg understands")
    if isinstance(error, av.error.EOFError):
        return VideoError(f"ends before its first frame: cut off; {REMEDY}")
    if isinstance(error, av.error.FFmpegError):
        return VideoError(f"is damaged, or not a video (FFmpeg: {error.strerror}); {REMEDY}")
    return VideoError(f"cannot be opened: {error}")
