"""A span of a video as an mp4 of its own: encoded anew, exact to the frame, or copied, as far as a copy is exact.

It runs in the calling process, which a decoder may take down; `mimir_ray.video.read` runs it in a child.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, pairwise
from typing import Literal

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from mimir_ray.video.decode import DECODE_ERRORS, as_stored, cut_off, damaged, opened, quarter_turns
from mimir_ray.video.errors import VideoError
from mimir_ray.video.probe import TIMED_CONTAINERS, VideoInfo, formats
from mimir_ray.video.write import BT601, CRF, PRESET, add_h264, open_mp4

Mode = Literal["reencode", "copy"]

MICROSECOND = Fraction(1, 1_000_000)
RGB_MATRIX = 0  # identity, in ISO/IEC 23091-2


def cut(
    path: str,
    out: str,
    info: VideoInfo,
    start_frame: int,
    end_frame: int,
    *,
    mode: Mode,
    crf: int = CRF,
    preset: str = PRESET,
) -> tuple[int, int]:
    """Write frames [start_frame, end_frame) of `path` to the mp4 `out`, without sound, from time 0; return the span.

    `reencode` writes exactly these frames as H.264 4:2:0, upright, at their own times; an odd side loses its last row
    or column. `copy` keeps the packets, rotation and all, and so can only begin at a keyframe: the span that it returns
    is the longest inside the one asked for that needs no other packet, and `crf` and `preset` play no part.
    `copy` does not look at the pictures: what is damaged stays damaged.
    What `out` holds after an error is of no use. Raises VideoError; may crash, may hang.
    """
    _check(info, start_frame, end_frame)
    try:
        if mode == "copy":
            return _copy(path, out, info, start_frame, end_frame)
        _reencode(path, out, info, start_frame, end_frame, crf, preset)
    except DECODE_ERRORS as error:
        raise VideoError(f"frames {start_frame} to {end_frame - 1} cannot be written as an mp4: {error}") from error
    return start_frame, end_frame


def _check(info: VideoInfo, start: int, end: int) -> None:
    if not 0 <= start < end <= info.frames:
        raise VideoError(
            f"frames {start} to {end - 1} were asked for; the video has frames 0 to {info.frames - 1}, "
            "and a cut takes at least one of them"
        )
    for frame, (time_s, next_s) in enumerate(pairwise(info.times_s[start:end]), start):
        if not time_s < next_s:
            raise VideoError(f"frames {frame} and {frame + 1} are both shown at {time_s:g} s; an mp4 cannot hold that")


def _reencode(path: str, out: str, info: VideoInfo, start: int, end: int, crf: int, preset: str) -> None:
    try:
        _encode(_sought(path, info, start, end), out, info, start, end, crf, preset)
    except _NotFoundError:
        _encode(_counted(path, info, start, end), out, info, start, end, crf, preset)


def _encode(
    frames: Iterator[av.VideoFrame], out: str, info: VideoInfo, start: int, end: int, crf: int, preset: str
) -> None:
    """Encode decoded `frames`, which are those of [start, end), at their own times."""
    first = next(frames)
    base = first.time_base or MICROSECOND
    bounds_s = (*info.times_s, info.duration_s)[start : end + 1]
    ticks = [round((bound_s - bounds_s[0]) / base) for bound_s in bounds_s]
    reformatter = VideoReformatter()
    with open_mp4(out) as container:
        width_px, height_px = info.width_px // 2 * 2, info.height_px // 2 * 2
        stream = add_h264(container, Fraction(info.fps).limit_denominator(60_000), width_px, height_px, crf, preset)
        context = stream.codec_context
        context.time_base = base
        context.flags |= Flags.frame_duration
        context.colorspace = BT601 if first.colorspace == RGB_MATRIX else first.colorspace
        context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
        for frame, (tick, next_tick) in zip(chain([first], frames), pairwise(ticks), strict=True):
            upright = av.VideoFrame.from_ndarray(_upright(frame, info, reformatter), format="yuv420p")
            upright.pts, upright.duration, upright.time_base = tick, next_tick - tick, base
            container.mux(stream.encode(upright))
        container.mux(stream.encode())


def _upright(frame: av.VideoFrame, info: VideoInfo, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """The frame's three planes in limited range, turned and with even sides, one under the other (1.5 H, W)."""
    width_px, height_px = as_stored(info, info.width_px, info.height_px)
    yuv = reformatter.reformat(frame, width_px, height_px, "yuv420p", dst_color_range=ColorRange.MPEG, threads=1)
    planes = []
    for plane, scale in zip(yuv.planes, (1, 2, 2), strict=True):
        rows_HW = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        even_HW = rows_HW[: height_px // 2 * 2 // scale, : width_px // 2 * 2 // scale]
        planes.append(np.rot90(even_HW, quarter_turns(info)).ravel())
    return np.concatenate(planes).reshape(-1, info.width_px // 2 * 2)


class _NotFoundError(VideoError):
    """Frames cannot be found by their times in this file."""


def _counted(path: str, info: VideoInfo, start: int, end: int) -> Iterator[av.VideoFrame]:
    """Frames [start, end), counted from the first one of the file."""
    seen = 0
    try:
        with opened(path) as (container, stream):
            for seen, frame in enumerate(container.decode(stream), start=1):
                if seen > start:
                    yield frame
                if seen == end:
                    return
    except DECODE_ERRORS as error:
        raise damaged(seen, info, error) from error
    raise cut_off(seen, info)


def _sought(path: str, info: VideoInfo, start: int, end: int) -> Iterator[av.VideoFrame]:
    """Frames [start, end) after a seek, each known by its presentation time. Raises _NotFoundError when one is not."""
    found = start
    try:
        with opened(path) as (container, stream):
            pts = _times(container, stream, info, start, end)
            packets = _from_keyframe(container, stream, pts[0])
            for frame in chain.from_iterable(packet.decode() for packet in packets):
                if frame.pts is not None and frame.pts < pts[0]:
                    continue
                if frame.pts != pts[found - start]:
                    raise _NotFoundError(f"frame {found} is not where its time says")
                yield frame
                found += 1
                if found == end:
                    return
    except DECODE_ERRORS as error:
        raise damaged(found, info, error) from error
    raise _NotFoundError(f"frame {found} does not come after a seek")


def _times(
    container: "av.container.InputContainer", stream: "av.VideoStream", info: VideoInfo, start: int, end: int
) -> list[int]:
    """When frames [start, end) are shown, in the stream's own units.

    Raises _NotFoundError for containers that do not store every frame's time.
    """
    first = next(container.decode(stream), None)
    if first is None or first.pts is None or first.time_base is None or not TIMED_CONTAINERS & formats(container):
        raise _NotFoundError(f"{container.format.name} does not store when each frame is shown: use mode reencode")
    return [first.pts + round(time_s / first.time_base) for time_s in info.times_s[start:end]]


def _from_keyframe(
    container: "av.container.InputContainer", stream: "av.VideoStream", time: int
) -> "Iterator[av.Packet[av.VideoStream]]":
    """The packets from a keyframe on that is shown at `time` or before. Raises _NotFoundError."""
    target = time
    for _ in range(2):
        container.seek(target, stream=stream)
        packets = container.demux(stream)
        key = next(packets)
        if key.pts is not None and key.pts <= time:
            return chain([key], packets)
        # An mp4 is searched by when packets are decoded, and this one is decoded before `time` but shown after it.
        target = (time if key.dts is None else key.dts) - 1
    raise _NotFoundError("no keyframe is found before the span: use mode reencode")


def _copy(path: str, out: str, info: VideoInfo, start: int, end: int) -> tuple[int, int]:
    with opened(path) as (source, stream):
        pts = _times(source, stream, info, start, end)
        kept = _copyable(stream, _from_keyframe(source, stream, pts[0]), pts)
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
            copied = target.add_stream_from_template(stream)
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
