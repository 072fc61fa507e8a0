"""Two decoders behind one signature: the frames at given indices, in display order, as RGB.

Both run in the calling process and may take it down with them; `mimir_ray.video.read` runs them in a child.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import av
import av.error
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from mimir_ray.video.errors import VideoError
from mimir_ray.video.probe import OPEN_OPTIONS, VideoInfo, video_stream

FramesFHWC = NDArray[np.uint8]

EQUAL_PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"})
"""Formats in which the two decoders' RGB is equal to the byte; 10-bit differs at chroma edges."""
UNKNOWN_TO_DECORD = frozenset({"av1"})  # decord 0.6 carries an FFmpeg of 2020
BLOCK_FRAMES = 16
DECODE_ERRORS = (av.error.FFmpegError, OSError, ValueError)
"""What PyAV raises where a file is damaged."""


def decord_suits(info: VideoInfo) -> bool:
    """Whether decord returns the frames that were asked for, equal to PyAV's.

    Its seeks are silently off by some frames in open-GOP streams and in containers without presentation times, and it
    fails on rotated ones.
    """
    plain = info.seekable and info.rotation_deg == 0 and info.pixel_format in EQUAL_PIXEL_FORMATS
    return plain and info.codec not in UNKNOWN_TO_DECORD


def fit(info: VideoInfo, short_side_px: int | None) -> tuple[int, int]:
    """Width and height of frames whose short side is at most `short_side_px`; never larger than they are."""
    short = min(info.width_px, info.height_px)
    if short_side_px is None or short <= short_side_px:
        return info.width_px, info.height_px
    return round(info.width_px * short_side_px / short), round(info.height_px * short_side_px / short)


def quarter_turns(info: VideoInfo) -> int:
    """How often `np.rot90` has to turn a stored frame for it to be upright."""
    return info.rotation_deg // 90 % 4


def as_stored(info: VideoInfo, width_px: int, height_px: int) -> tuple[int, int]:
    """Width and height, before rotation, of frames that are `width_px` x `height_px` upright."""
    return (height_px, width_px) if quarter_turns(info) % 2 else (width_px, height_px)


@contextmanager
def opened(path: str) -> "Iterator[tuple[av.container.InputContainer, av.VideoStream]]":
    """A file and its video stream, to be decoded by one thread. Raises VideoError and DECODE_ERRORS."""
    with av.open(path, options=OPEN_OPTIONS, metadata_errors="replace") as container:
        stream = video_stream(container)
        stream.thread_count = 1
        yield container, stream


def damaged(seen: int, info: VideoInfo, error: Exception) -> VideoError:
    """The error for a video of which `seen` frames could be decoded before one could not."""
    return VideoError(f"damaged: decoding stops at frame {seen} of {info.frames} ({error})")


def cut_off(seen: int, info: VideoInfo) -> VideoError:
    """The error for a video that ends after `seen` frames."""
    return VideoError(f"cut off: only {seen} of {info.frames} frames can be decoded")


def with_decord(path: str, info: VideoInfo, indices: Sequence[int], width_px: int, height_px: int) -> FramesFHWC:
    """Frames at ascending `indices`, scaled to `width_px` x `height_px`. Raises VideoError; may crash, may hang."""
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "2048")
    os.environ.setdefault("DECORD_REWIND_RETRY_MAX", "4")
    try:
        import decord
    except ImportError as error:
        raise VideoError("decord is not installed") from error
    size = (-1, -1) if (width_px, height_px) == (info.width_px, info.height_px) else (width_px, height_px)
    frames_FHWC: FramesFHWC = np.empty((len(indices), height_px, width_px, 3), np.uint8)
    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), width=size[0], height=size[1], num_threads=1)
        if len(reader) != info.frames:
            raise VideoError(f"decord opens {len(reader)} of {info.frames} frames")
        for start in range(0, len(indices), BLOCK_FRAMES):
            block = indices[start : start + BLOCK_FRAMES]
            frames_FHWC[start : start + len(block)] = reader.get_batch(list(block)).asnumpy()
    except VideoError:
        raise
    except Exception as error:
        raise VideoError(f"decord: {str(error).strip().splitlines()[0][:200]}") from error
    return frames_FHWC


def with_pyav(path: str, info: VideoInfo, indices: Sequence[int], width_px: int, height_px: int) -> FramesFHWC:
    """Frames at ascending `indices`, scaled to `width_px` x `height_px`, decoded from the start. Raises VideoError."""
    frames_FHWC: FramesFHWC = np.empty((len(indices), height_px, width_px, 3), np.uint8)
    stored = as_stored(info, width_px, height_px)
    reformatter = VideoReformatter()  # one for all frames: it keeps the conversion tables
    filled = seen = 0
    try:
        with opened(path) as (container, stream):
            for seen, frame in enumerate(container.decode(stream), start=1):
                while filled < len(indices) and indices[filled] == seen - 1:
                    rgb = reformatter.reformat(frame, *stored, format="rgb24").to_ndarray()
                    frames_FHWC[filled] = np.rot90(rgb, quarter_turns(info))
                    filled += 1
                if filled == len(indices):
                    break
    except DECODE_ERRORS as error:
        raise damaged(seen, info, error) from error
    if filled < len(indices):
        raise cut_off(seen, info)
    return frames_FHWC
