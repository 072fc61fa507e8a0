"""A span of a video as an mp4 of its own: copied, as far as a copy is exact, or encoded anew, exact to the frame.

It runs in the calling process, which a decoder may take down; `mimir_ray.video.read` runs it in a child.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from typing import Literal

import av
import numpy as np
from av.codec.context import Flags
from numpy.typing import NDArray

from mimir_ray.video.decode import Cursor, Span
from mimir_ray.video.errors import VideoError
from mimir_ray.video.light import BT601, BT709, UNSPECIFIED, needs_mapping
from mimir_ray.video.probe import Index, VideoInfo
from mimir_ray.video.source import DECODE_ERRORS, opened
from mimir_ray.video.view import Pose, matrix_of, written_matrix
from mimir_ray.video.write import CRF, PRESET, add_h264, open_mp4

Mode = Literal["reencode", "copy", "either"]
"""`either` copies where that keeps every frame of the span, and encodes anew elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When the frames of a span are shown."""

    start_s: float
    """The first one, from 0 for the first of the video."""
    times_s: Sequence[float]
    """Each of them, from 0 for the first one."""
    duration_s: float
    """To the end of the last one."""
    fps: float

    @property
    def shown_s(self) -> tuple[float, float]:
        """When the first and the last frame are shown, from 0 for the first of the video."""
        return self.start_s, self.start_s + self.times_s[-1]


@dataclass(frozen=True)
class Cut:
    """What was written: a span, and how it was made."""

    start_frame: int
    end_frame: int
    copied: bool


def timing_of(info: VideoInfo, start_frame: int, end_frame: int) -> Timing:
    """When frames [start_frame, end_frame) of a video are shown. Raises VideoError for those that it does not have."""
    if not 0 <= start_frame < end_frame <= info.frames:
        raise VideoError(
            f"frames {start_frame} to {end_frame - 1} were asked for; the video has frames 0 to {info.frames - 1}"
        )
    start_s, *others_s, end_s = (*info.times_s, info.duration_s)[start_frame : end_frame + 1]
    times_s = [0.0, *(time_s - start_s for time_s in others_s)]
    return Timing(start_s=start_s, times_s=times_s, duration_s=end_s - start_s, fps=info.fps)


def cut(
    path: str,
    out: str,
    index: Index,
    span: Span,
    timing: Timing,
    *,
    mode: Mode,
    crf: int = CRF,
    preset: str = PRESET,
    cursor: Cursor | None = None,
) -> Cut:
    """Write the frames of a span, shown as `timing` says, to the mp4 `out`, without sound, from time 0.

    `reencode` writes these frames as a viewer sees them, as H.264 4:2:0 at their own times; an odd side loses its last
    row or column. `copy` keeps the packets, rotation and all, and so can only begin at a keyframe: the span that it
    returns is the longest inside the one asked for that needs no other packet, and `crf` and `preset` play no part.
    `copy` does not look at the pictures: what is damaged stays damaged. With a `cursor` in `path` the file is read on
    from there, and the tables of its painter serve again, which take seconds to make for HDR.
    What `out` holds after an error is of no use. Raises VideoError; may crash, may hang.
    """
    try:
        if mode == "copy":
            return Cut(*_copy(path, out, index, span, timing), copied=True)
        if mode == "either" and _copied_whole(path, out, index, span, timing):
            return Cut(*span, copied=True)
        with closing(Cursor(path, index)) if cursor is None else nullcontext(cursor) as cursor:
            _reencode(cursor, out, index, span, timing, crf, preset)
    except DECODE_ERRORS as error:
        raise VideoError(f"frames {span[0]} to {span[1] - 1} cannot be written as an mp4: {error}") from error
    return Cut(*span, copied=False)


def _copied_whole(path: str, out: str, index: Index, span: Span, timing: Timing) -> bool:
    """Whether a copy has all of the span; then it is written."""
    try:
        return _copy(path, out, index, span, timing, whole=True) == span
    except (VideoError, *DECODE_ERRORS):
        return False


def _reencode(cursor: Cursor, out: str, index: Index, span: Span, timing: Timing, crf: int, preset: str) -> None:
    """Encode the frames of the span at their own times."""
    painter, look, base = cursor.painter, index.look, index.time_base
    frames = cursor.stored(span, timing.shown_s)
    first = next(frames)
    ticks = [round(bound_s / base) for bound_s in (*timing.times_s, timing.duration_s)]
    with open_mp4(out) as container:
        width_px, height_px = look.width_px // 2 * 2, look.height_px // 2 * 2
        stream = add_h264(container, Fraction(timing.fps).limit_denominator(60_000), width_px, height_px, crf, preset)
        context = stream.codec_context
        context.time_base = base
        context.flags |= Flags.frame_duration
        context.colorspace, context.color_primaries, context.color_trc = _colours(first)
        for frame, (tick, next_tick) in zip(chain([first], frames), pairwise(ticks), strict=True):
            planes = _planes(
                painter.converted(frame, *look.pose.stored(look.width_px, look.height_px), "yuv420p"), look.pose
            )
            upright = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            upright.pts, upright.duration, upright.time_base = tick, next_tick - tick, base
            container.mux(stream.encode(upright))
        container.mux(stream.encode())


def _colours(frame: av.VideoFrame) -> tuple[int, int, int]:
    """Matrix, primaries and transfer that frames like this one are written in."""
    matrix = written_matrix(matrix_of(frame))
    if needs_mapping(frame):
        return BT709, BT709, BT709
    untagged = BT601 if matrix != BT709 else BT709
    primaries, transfer = frame.color_primaries, frame.color_trc
    return (
        matrix,
        untagged if primaries == UNSPECIFIED else primaries,
        untagged if transfer == UNSPECIFIED else transfer,
    )


def _planes(yuv: av.VideoFrame, pose: Pose) -> NDArray[np.uint8]:
    """The three planes as displayed and with even sides, one under the other (1.5 H, W)."""
    planes = []
    for plane, scale in zip(yuv.planes, (1, 2, 2), strict=True):
        rows_HW = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        even_HW = rows_HW[: yuv.height // 2 * 2 // scale, : yuv.width // 2 * 2 // scale]
        planes.append(pose.place(even_HW).ravel())
    width_px, _ = pose.stored(yuv.width, yuv.height)
    return np.concatenate(planes).reshape(-1, width_px // 2 * 2)


def _from_keyframe(
    container: "av.container.InputContainer", stream: "av.VideoStream", time: int
) -> "Iterator[av.Packet[av.VideoStream]]":
    """The packets from a keyframe on that is shown at `time` or before. Raises VideoError."""
    target = time
    for _ in range(2):
        container.seek(target, stream=stream)
        packets = container.demux(stream)
        key = next(packets)
        if key.pts is not None and key.pts <= time:
            return chain([key], packets)
        # An mp4 is searched by when packets are decoded, and this one is decoded before `time` but shown after it.
        target = (time if key.dts is None else key.dts) - 1
    raise VideoError("no keyframe is found before the span: use mode reencode")


def _copy(path: str, out: str, index: Index, span: Span, timing: Timing, *, whole: bool = False) -> Span:
    """Copy what can be copied of a span; nothing is written where `whole` is asked for and cannot be had."""
    start, end = span
    if not index.counts(span, timing.shown_s):
        raise VideoError("its packets do not tell which frames they show, or when: use mode reencode")
    with opened(path) as (source, stream):
        pts = list(index.starts[start:end])
        kept = _copyable(stream, _from_keyframe(source, stream, pts[0]), pts)
        if whole and len(kept) < len(pts):
            return start, start + len(kept)
        if not kept:
            raise VideoError(
                f"frames {start} to {end - 1} hold no keyframe that a copy could begin with: "
                "ask for a longer span or use mode reencode"
            )
        shown = sorted(kept)
        delay = max(a - b for a, b in zip(shown, kept, strict=True))
        chosen = set(kept)
        needed = (packet for packet in _from_keyframe(source, stream, pts[0]) if packet.pts in chosen)
        with open_mp4(out) as target:
            copied = target.add_stream_from_template(stream, opaque=True)  # PyAV looks for an encoder else
            for at, turn, packet in zip(kept, shown, needed, strict=False):  # the last ends before the file does
                packet.stream = copied
                packet.pts = at - kept[0]
                packet.dts = turn - delay - kept[0]  # made anew: without what was dropped, in order, never after pts
                target.mux(packet)
    first = start + pts.index(kept[0])
    return first, first + len(kept)


def _copyable(stream: "av.VideoStream", packets: "Iterator[av.Packet[av.VideoStream]]", pts: list[int]) -> list[int]:
    """The times, in decoding order, of the most packets in a row that show frames in a row and need no other packet.

    They begin at a keyframe. Pictures decoded after it and shown before it are left out: they need what came before.
    They end where all that has been decoded has no gap when it is shown, so nothing kept needs a later picture.
    """
    place = {time: index for index, time in enumerate(pts)}
    kept: list[int] = []
    whole = last = 0
    for packet in packets:
        if packet.pts is None or packet.pts > pts[-1]:
            break
        index = place.get(packet.pts)
        if not kept:
            if index is None or not packet.is_keyframe or not _stands_alone(stream, packet):
                continue
        elif packet.pts < kept[0]:
            continue
        if index is None or packet.is_discard:
            break
        kept.append(packet.pts)
        last = max(last, index)
        if len(kept) == last - place[kept[0]] + 1:
            whole = len(kept)
    return kept[:whole]


def _stands_alone(stream: "av.VideoStream", packet: "av.Packet[av.VideoStream]") -> bool:
    """Whether a decoder that starts at this packet shows it: some keyframes only begin to refresh the picture."""
    stream.codec_context.flush_buffers()
    shown = [*stream.decode(packet), *stream.decode(None)]
    stream.codec_context.flush_buffers()
    return [frame.pts for frame in shown] == [packet.pts]
