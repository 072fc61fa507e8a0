"""Frames of a file as RGB, as a viewer sees them: those at given indices, or all of them once, in order.

It runs in the calling process, which a decoder may take down; `mimir_ray.video.read` runs it in a child.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain

import av
import numpy as np
from numpy.typing import NDArray

from mimir_ray.video.errors import VideoError
from mimir_ray.video.probe import Index
from mimir_ray.video.source import DECODE_ERRORS, damaged, decoded, opened
from mimir_ray.video.view import Painter, deinterlaced
from mimir_ray.video.whole import REMEDY

FramesFHWC = NDArray[np.uint8]
Span = tuple[int, int]
"""A clip's first frame in its file, and the first one after it."""

EQUAL_PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"})
"""Formats in which the two decoders' RGB is equal to the byte; 10-bit differs at chroma edges."""
UNKNOWN_TO_DECORD = frozenset({"av1"})  # decord 0.6 carries an FFmpeg of 2020
BLOCK_FRAMES = 16


def decord_suits(index: Index) -> bool:
    """Whether decord returns the frames that were asked for, equal to PyAV's.

    Of two streams it takes another one than players; its seeks are silently off by some frames in open-GOP streams and
    in containers without presentation times; it knows neither mirrors nor pixels that are not square nor HDR nor what
    players assume of large untagged frames, and fails on rotated ones.
    """
    look = index.look
    upright = not (look.pose.transposed or look.pose.right_to_left or look.pose.upside_down)
    plain = look.plain and not look.matrix_assumed
    shape = upright and look.pixel_aspect == 1 and not look.interlaced and look.streams == 1
    known = look.codec not in UNKNOWN_TO_DECORD and look.pixel_format in EQUAL_PIXEL_FORMATS
    return index.seekable and shape and plain and known


def fit(width_px: int, height_px: int, short_side_px: int | None) -> tuple[int, int]:
    """Width and height of frames whose short side is at most `short_side_px`; never larger than they are."""
    short = min(width_px, height_px)
    if short_side_px is None or short <= short_side_px:
        return width_px, height_px
    return round(width_px * short_side_px / short), round(height_px * short_side_px / short)


def no_such_frame(index: int, frames: int) -> VideoError:
    """The error for an index beyond the last frame."""
    return VideoError(f"frame {index} was asked for; the video has frames 0 to {frames - 1}")


def with_decord(path: str, index: Index, indices: Sequence[int], width_px: int, height_px: int) -> FramesFHWC:
    """Frames at ascending `indices`, scaled to `width_px` x `height_px`. Raises VideoError; may crash, may hang."""
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "2048")
    os.environ.setdefault("DECORD_REWIND_RETRY_MAX", "4")
    try:
        import decord
    except ImportError as error:
        raise VideoError("decord is not installed") from error
    size = (-1, -1) if (width_px, height_px) == (index.look.width_px, index.look.height_px) else (width_px, height_px)
    frames_FHWC: FramesFHWC = np.empty((len(indices), height_px, width_px, 3), np.uint8)
    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), width=size[0], height=size[1], num_threads=1)
        if len(reader) != len(index.starts):
            raise VideoError(f"decord opens {len(reader)} of {len(index.starts)} frames")
        for start in range(0, len(indices), BLOCK_FRAMES):
            block = indices[start : start + BLOCK_FRAMES]
            frames_FHWC[start : start + len(block)] = reader.get_batch(list(block)).asnumpy()
    except VideoError:
        raise
    except Exception as error:
        raise VideoError(f"decord: {str(error).strip().splitlines()[0][:200]}") from error
    return frames_FHWC


class Cursor:
    """A place in a video. Frames are read from it forward, or from a keyframe where one lies nearer to what is wanted.

    Frames are known by their times after a seek, and counted from the start where their times do not tell.
    """

    def __init__(self, path: str, index: Index) -> None:
        self._path, self._index = path, index
        number = {pts: number for number, pts in enumerate(index.starts)}
        self._keys = [] if index.odd else sorted(number[pts] for pts in index.keys)
        self._stack = ExitStack()
        self._frames: Iterator[av.VideoFrame] | None = None
        self._next = 0
        self.painter = Painter()

    def close(self) -> None:
        """Close the file."""
        self._stack.close()
        self._frames = None

    def read(
        self,
        indices: Sequence[int],
        span: Span | None,
        width_px: int,
        height_px: int,
        shown_s: tuple[float, float] | None = None,
    ) -> FramesFHWC:
        """Frames at ascending `indices`, scaled to `width_px` x `height_px`; interlaced ones are made whole from the
        frames of `span`, or of the file, alone. `shown_s` is as in `stored`. Raises VideoError.
        """
        self._expect(span, shown_s)
        frames_FHWC: FramesFHWC = np.empty((len(indices), height_px, width_px, 3), np.uint8)
        pose = self._index.look.pose
        frames = self._whole(indices, span) if self._index.odd else self._plain(indices, span)
        try:
            for place, frame in enumerate(frames):
                frames_FHWC[place] = self.painter.paint(frame, pose, width_px, height_px, "rgb24")
        except DECODE_ERRORS as error:  # of swscale, or of what makes interlaced frames whole
            raise damaged(self._next - 1, error) from error
        return frames_FHWC

    def stored(self, span: Span, shown_s: tuple[float, float] | None = None) -> Iterator[av.VideoFrame]:
        """The decoded frames of a span, in order and deinterlaced. Raises VideoError.

        `shown_s` says when its first and its last frame are shown, from 0 for the first of the file: where that is not
        when packets of these numbers are, frames are counted from the start.
        """
        self._expect(span, shown_s)
        return self._whole(range(*span), span)

    def _expect(self, span: Span | None, shown_s: tuple[float, float] | None) -> None:
        """Count from the start where the packets of a span are not its frames."""
        if span and shown_s and not self._index.odd and not self._index.counts(span, shown_s):
            self._count()

    def _plain(self, indices: Sequence[int], span: Span | None) -> Iterator[av.VideoFrame]:
        """The frames at `indices`, by way of keyframes; from the first interlaced one on all that lie between."""
        for place, index in enumerate(indices):
            frame = self._at(index)
            if frame.interlaced_frame:
                yield from self._whole(indices[place:], span)
                return
            yield frame

    def _whole(self, indices: Sequence[int], span: Span | None) -> Iterator[av.VideoFrame]:
        """The frames at `indices`, from all those of the span up to the one after the last of them."""
        first, end = span or (0, indices[-1] + 2)
        last = min(end, indices[-1] + 2)
        wanted, frames = iter(indices), deinterlaced(self._run(first, last, indices[-1]), self._index.time_base)
        index = next(wanted)
        for number, frame in enumerate(frames, first):
            if number == index:
                yield frame
                if (following := next(wanted, None)) is None:
                    return
                index = following

    def _run(self, first: int, end: int, needed: int) -> Iterator[av.VideoFrame]:
        """Frames [first, end), and no error for those after `needed` that are not there."""
        for index in range(first, end):
            try:
                yield self._at(index)
            except VideoError:
                if index > needed:
                    return
                raise

    def _at(self, index: int) -> av.VideoFrame:
        """The frame at an index."""
        if not self._index.odd and index >= len(self._index.starts):
            raise no_such_frame(index, len(self._index.starts))
        place = bisect_right(self._keys, index)
        key = self._keys[place - 1] if place else 0
        there = self._frames is not None and key <= self._next <= index
        if not there and not (key and self._seek(key)):
            self._rewind()
        return self._advance(index)

    def _advance(self, index: int) -> av.VideoFrame:
        assert self._frames is not None
        try:
            for frame in self._frames:
                if not self._index.odd and frame.pts != self._index.starts[self._next]:
                    self._count()
                    self._rewind()
                    return self._advance(index)
                self._next += 1
                if self._next > index:
                    return frame
        except DECODE_ERRORS as error:
            self.close()
            raise damaged(self._next, error) from error
        self.close()
        if self._index.odd:
            raise no_such_frame(index, self._next)
        raise VideoError(f"damaged: only {self._next} of {len(self._index.starts)} frames can be decoded; {REMEDY}")

    def _count(self) -> None:
        """Know frames by their number from now on; none has been counted."""
        self._index, self._keys = replace(self._index, odd=True), []
        self.close()

    def _rewind(self) -> None:
        """To the first frame, by opening the file anew."""
        self.close()
        try:
            container, stream = self._stack.enter_context(opened(self._path))
        except DECODE_ERRORS as error:
            raise damaged(0, error) from error
        self._container, self._stream = container, stream
        self._frames, self._next = decoded(container.demux(stream)), 0

    def _seek(self, key: int) -> bool:
        """To a keyframe; False where it is not found by its time, and counting has to do."""
        if self._frames is None:
            self._rewind()
        target = self._index.starts[key]
        try:
            for place in (target, target - 1):  # an mp4 is searched by when packets are decoded
                self._container.seek(place, stream=self._stream)
                frames = decoded(self._container.demux(self._stream))
                for frame in frames:
                    if frame.pts is None or frame.pts > target:
                        break
                    if frame.pts == target:
                        self._frames, self._next = chain([frame], frames), key
                        return True
        except DECODE_ERRORS:
            pass
        self._keys = []  # nor will the others be
        return False
