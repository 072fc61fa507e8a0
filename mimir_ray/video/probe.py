"""What a video file says about itself, checked against what it holds, without decoding more than its first frame."""

import os
import stat
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import av.error

from mimir_ray.video.errors import VideoError
from mimir_ray.video.h264 import holds_idr, nal_length_bytes

OPEN_OPTIONS = {"protocol_whitelist": "file"}  # a playlist with a video's name must not reach other hosts
TIMED_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})  # these store a presentation time for every frame
HEADER_PROMISES_DURATION = frozenset({"matroska", "webm"})
WHOLE = 0.9  # headers are rounded, and the last frame's duration is a guess


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Facts of one video stream. Sizes are as displayed: after rotation, in stored (not stretched) pixels."""

    codec: str
    pixel_format: str
    width_px: int
    height_px: int
    fps: float
    frames: int
    duration_s: float
    rotation_deg: int
    size_bytes: int
    times_s: tuple[float, ...]
    """When each frame is shown, from 0 for the first; `frames` values, ascending."""
    seekable: bool
    """A seek to a keyframe is safe: timed container, whole keyframes, and no frame shown before one that it follows."""


def probe(path: str | Path) -> VideoInfo:
    """Read the facts of the first video stream of `path`.

    Raises VideoError, whose message a person understands, when the file is no video, is empty, cut off or unreadable.
    """
    size_bytes = _size_of_file(path)
    try:
        with av.open(str(path), options=OPEN_OPTIONS, metadata_errors="replace") as container:
            return _read(container, size_bytes)
    except av.error.FFmpegError as error:
        raise VideoError(_explain(error, path)) from error
    except (OSError, ValueError, UnicodeError) as error:
        raise VideoError(f"cannot be opened: {error}") from error


def _size_of_file(path: str | Path) -> int:
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


def _read(container: "av.container.InputContainer", size_bytes: int) -> VideoInfo:
    _check_complete(container, size_bytes)
    stream = video_stream(container)
    stream.thread_count = 1
    starts: list[int] = []
    h264, nal_length = stream.codec_context.name == "h264", nal_length_bytes(stream.codec_context.extradata)
    end, first, sorted_keys, whole_keys, untimed, discarded = 0, None, True, True, 0, 0
    key_pts: int | None = None
    for packet in container.demux(stream):
        if first is None:
            first = next(iter(packet.decode()), None)
        if not packet.size:
            continue
        if packet.is_discard:
            discarded += 1
            continue
        start = packet.pts if packet.pts is not None else packet.dts
        untimed += packet.pts is None
        if start is None:
            start = end
        if packet.is_keyframe:
            key_pts = start
            whole_keys = whole_keys and (not h264 or holds_idr(bytes(packet), nal_length))
        elif key_pts is not None and start < key_pts:
            sorted_keys = False
        starts.append(start)
        end = max(end, start + (packet.duration or 0))
    if first is None:
        raise VideoError("no frame can be decoded: the file is damaged or cut off")
    starts.sort()
    times, duration = _times(starts, end, stream)
    _check_lasts(container, stream, float(duration))
    turned = first.rotation % 180 == 90
    return VideoInfo(
        codec=stream.codec_context.codec.canonical_name,
        pixel_format=first.format.name,
        width_px=first.height if turned else first.width,
        height_px=first.width if turned else first.height,
        fps=float(stream.average_rate or Fraction(len(times)) / (duration or 1)),
        frames=len(times),
        duration_s=float(duration),
        rotation_deg=first.rotation % 360,
        size_bytes=size_bytes,
        times_s=times,
        seekable=sorted_keys
        and whole_keys
        and not untimed
        and not discarded
        and bool(TIMED_CONTAINERS & formats(container)),
    )


def video_stream(container: "av.container.InputContainer") -> "av.VideoStream":
    """The first stream that is a video and not a cover picture. Raises VideoError."""
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not streams:
        kinds = sorted({s.type for s in container.streams})
        raise VideoError(f"holds no video stream, only {' and '.join(kinds) or 'nothing'}")
    if streams[0].codec_context is None:
        raise VideoError("holds a video stream in a codec that FFmpeg does not know")
    return streams[0]


def _check_complete(container: "av.container.InputContainer", size_bytes: int) -> None:
    """The outermost boxes say how long the file is; one that is shorter was cut off."""
    names = formats(container)
    promised_bytes = 0
    with open(container.name, "rb") as file:
        if "avi" in names:
            promised_bytes = 8 + int.from_bytes(file.read(8)[4:], "little")
        elif "mp4" in names:
            while promised_bytes < size_bytes:
                file.seek(promised_bytes)
                head = file.read(16)
                length = int.from_bytes(head[:4])
                if length == 1:
                    length = int.from_bytes(head[8:])
                if length < 8:  # 0: up to the end of the file, whatever that is; less than its own head: padding
                    return
                promised_bytes += length
    if size_bytes < promised_bytes:
        raise VideoError(f"cut off: holds {size_bytes:,} of the {promised_bytes:,} bytes that its headers promise")


def _check_lasts(container: "av.container.InputContainer", stream: "av.VideoStream", duration_s: float) -> None:
    """Containers without an index at the front promise a duration instead."""
    if not HEADER_PROMISES_DURATION & formats(container):
        return
    promised_s = 0.0
    if stream.duration and stream.time_base:
        promised_s = float(stream.duration * stream.time_base)
    elif container.duration and len(container.streams) == 1:
        promised_s = container.duration / av.time_base
    if duration_s < WHOLE * promised_s:
        raise VideoError(f"cut off: holds {duration_s:.2f} s of the {promised_s:.2f} s that its header promises")


def _times(starts: list[int], end: int, stream: "av.VideoStream") -> tuple[tuple[float, ...], Fraction]:
    """Seconds from the first frame for each of `starts` (in the stream's time base), and the whole duration."""
    base = stream.time_base or Fraction(1, 1000)
    steps = [b - a for a, b in pairwise(starts)]
    if steps and not any(steps) and stream.average_rate:  # raw streams: no times at all
        period = 1 / stream.average_rate
        return tuple(float(i * period) for i in range(len(starts))), len(starts) * period
    last = max(end - starts[-1], 0) * base
    if not last:
        last = 1 / stream.average_rate if stream.average_rate else Fraction(0)
    return tuple(float((s - starts[0]) * base) for s in starts), (starts[-1] - starts[0]) * base + last


def formats(container: "av.container.InputContainer") -> set[str]:
    """The names of the container's format; FFmpeg reads mov and mp4 as one."""
    return set(container.format.name.split(","))


def _explain(error: "av.error.FFmpegError", path: str | Path) -> str:
    if isinstance(error, av.error.InvalidDataError):
        with open(path, "rb") as file:
            if file.read(8)[4:] == b"ftyp":
                return "starts as an mp4 whose index (moov) is missing or damaged: cut off, or never finished"
        return "is not a video that FFmpeg understands"
    if isinstance(error, av.error.EOFError):
        return "ends before its first frame: cut off"
    return f"is damaged, or not a video (FFmpeg: {error.strerror})"
