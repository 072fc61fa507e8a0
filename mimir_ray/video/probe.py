"""What a video file holds: which frames a viewer sees, when, and what they look like.

`index` reads packets and decodes one frame. Where packets are not frames, it says so, and only decoding tells.
It all runs in the calling process, which a decoder may take down; `mimir_ray.video.read` runs it in a child.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import av.error

from mimir_ray.video.clock import Clock
from mimir_ray.video.h264 import holds_idr, nal_length_bytes
from mimir_ray.video.light import BT601, UNSPECIFIED, needs_mapping
from mimir_ray.video.source import DECODE_ERRORS, damaged, decoded, explained, formats, nothing_shown, opened
from mimir_ray.video.view import HDR, Pose, aspect_of, displayed_size, matrix_of, pose_of, transfer_of

TIMED_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})  # these store a presentation time for every frame
ONE_PACKET_A_FRAME = frozenset({"h264", "hevc", "vp9", "av1", "mjpeg", "prores", "dnxhd", "ffv1", "png", "rawvideo"})
"""Codecs in which a packet of a timed container shows a frame, unless something else about it is odd. VP8 hides some,
MPEG-4 part 2 packs two into one."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Facts of the one stream of a file that players show. Sizes are as displayed, upright and in square pixels."""

    codec: str
    pixel_format: str
    stream: int
    """Its number in the file."""
    width_px: int
    height_px: int
    fps: float
    """Frames over duration, or the header's rate where that is nearly the same."""
    frames: int
    """The frames that a viewer sees."""
    duration_s: float
    rotation_deg: int
    """Counter-clockwise turn that makes stored pictures upright, after they were mirrored where they are."""
    mirrored: bool
    pixel_aspect: float
    """Width of a stored pixel over its height."""
    interlaced: bool
    """Whether a frame of it is, and is deinterlaced when it is read."""
    transfer: str
    """Its curve: `pq` and `hlg` are HDR, and mapped to SDR when they are read."""
    size_bytes: int
    times_s: tuple[float, ...]
    """When each frame is shown, from 0 for the first; `frames` values, ascending."""
    seekable: bool
    """A seek to a keyframe is safe: timed container, whole keyframes, and no frame shown before one that it follows."""

    @property
    def hdr(self) -> bool:
        """Whether its light is mapped to SDR."""
        return self.transfer in HDR

    @property
    def anamorphic(self) -> bool:
        """Whether its pixels are stretched."""
        return self.pixel_aspect != 1

    @property
    def rotated(self) -> bool:
        """Whether its pictures are turned or mirrored."""
        return self.rotation_deg != 0 or self.mirrored


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the first frame of a file, and its header, say of all."""

    codec: str
    pixel_format: str
    stream: int
    streams: int
    """Videos in the file, covers among them."""
    width_px: int
    height_px: int
    pose: Pose
    pixel_aspect: Fraction
    interlaced: bool
    transfer: str
    plain: bool
    """Whether its colours are SDR in BT.709, or in what came before it."""
    matrix_assumed: bool
    """Whether no tag names its matrix, and players assume another one than decoders."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """What the packets of a file tell."""

    look: Look
    time_base: Fraction
    starts: tuple[int, ...]
    """When each packet is shown, ascending, in the stream's units."""
    keys: tuple[int, ...]
    """The members of `starts` at which decoding can begin."""
    odd: bool
    """Whether the frames may be others than the packets: then neither of the two is of use."""
    seekable: bool
    lasts: tuple[int, ...]
    """Durations of the packets, in the order of `starts`."""

    def counts(self, span: tuple[int, int], shown_s: tuple[float, float]) -> bool:
        """Whether frames [first, end) are the packets of these numbers, by when the first and the last are shown.

        A decoder may show nothing of a packet in the middle of a file, and then all that follow have lower numbers.
        """
        first, last, starts = span[0], span[1] - 1, self.starts
        if self.odd or last >= len(starts):
            return False
        for number, time_s in zip((first, last), shown_s, strict=True):
            start = starts[0] + time_s / self.time_base
            near = range(max(number - 1, 0), min(number + 2, len(starts)))
            if min(near, key=lambda other: abs(starts[other] - start)) != number:
                return False
        return True


def probe(path: str | Path) -> VideoInfo:
    """The facts of the video in `path`; one whose packets may not be its frames is decoded for them.

    Raises VideoError, whose message a person understands, when the file is no video, is empty, cut off or unreadable.
    """
    times_s: list[float] = []
    try:
        with opened(path) as (container, stream):
            found = _index(container, stream)
            clock = Clock(container, stream)
            if not found.odd:
                times_s = [clock.time_s(*frame) for frame in zip(found.starts, found.lasts, strict=True)]
                return info_of(container, stream, found.look, times_s, clock, seekable=found.seekable)
        with opened(path) as (container, stream):
            clock, interlaced = Clock(container, stream), False
            for frame in decoded(container.demux(stream)):
                times_s.append(clock.shown_s(frame))
                interlaced = interlaced or bool(frame.interlaced_frame)
            return info_of(container, stream, found.look, times_s, clock, interlaced=interlaced)
    except DECODE_ERRORS as error:
        raise (damaged(len(times_s), error) if times_s else explained(error, path)) from error


def index(path: str | Path) -> Index:
    """What the packets of `path` tell. Raises VideoError as `probe` does."""
    try:
        with opened(path) as (container, stream):
            return _index(container, stream)
    except DECODE_ERRORS as error:
        raise explained(error, path) from error


def look_of(stream: "av.VideoStream", frame: av.VideoFrame) -> Look:
    """What a file's first frame says of all."""
    pose, aspect = pose_of(frame), aspect_of(stream.sample_aspect_ratio)
    width_px, height_px = displayed_size(frame, pose, aspect)
    return Look(
        codec=stream.codec_context.codec.canonical_name,
        pixel_format=frame.format.name,
        stream=stream.index,
        streams=len(stream.container.streams.video),
        width_px=width_px,
        height_px=height_px,
        pose=pose,
        pixel_aspect=aspect,
        interlaced=bool(frame.interlaced_frame),
        transfer=transfer_of(frame),
        plain=not needs_mapping(frame),
        matrix_assumed=frame.colorspace == UNSPECIFIED and matrix_of(frame) != BT601,
    )


def info_of(
    container: "av.container.InputContainer",
    stream: "av.VideoStream",
    look: Look,
    times_s: list[float],
    clock: Clock,
    *,
    interlaced: bool = False,
    seekable: bool = False,
) -> VideoInfo:
    """The facts of a video whose frames are shown at `times_s`, the last of which `clock` saw."""
    duration_s = max(clock.end_s, _promised_s(container, stream, clock))
    return VideoInfo(
        codec=look.codec,
        pixel_format=look.pixel_format,
        stream=look.stream,
        width_px=look.width_px,
        height_px=look.height_px,
        fps=mean_fps(len(times_s), duration_s, stream.average_rate),
        frames=len(times_s),
        duration_s=duration_s,
        rotation_deg=look.pose.rotation_deg,
        mirrored=look.pose.mirrored,
        pixel_aspect=float(look.pixel_aspect),
        interlaced=interlaced or look.interlaced,
        transfer=look.transfer,
        size_bytes=container.size,
        times_s=tuple(times_s),
        seekable=seekable,
    )


def mean_fps(frames: int, duration_s: float, said: Fraction | None = None) -> float:
    """Frames a second; what the header says instead where times that are rounded could come from it."""
    mean = frames / duration_s if duration_s else 0.0
    if said and (not mean or abs(float(said) / mean - 1) < 0.01):
        return float(said)
    return mean


def _promised_s(container: "av.container.InputContainer", stream: "av.VideoStream", clock: Clock) -> float:
    """To when the last frame stands, by the header; 0 where that says nothing, or only about sound."""
    names, promised_s = formats(container), 0.0
    if not names & TIMED_CONTAINERS:
        return 0.0
    if stream.duration and stream.time_base:
        promised_s = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    elif container.duration and len(container.streams) == 1:  # Matroska's, counted from 0
        promised_s = container.duration / av.time_base
    promised_s -= float((clock.first or 0) * clock.base)
    return promised_s if promised_s > clock.end_s + clock.period_s / 2 else 0.0


def _index(container: "av.container.InputContainer", stream: "av.VideoStream") -> Index:
    names = formats(container)
    context = stream.codec_context
    h264, nal_length = context.name == "h264", nal_length_bytes(context.extradata)
    shown: list[tuple[int, int]] = []
    keys: list[int] = []
    first: av.VideoFrame | None = None
    keyframes, sorted_keys, whole_keys, odd = 0, True, True, context.codec.canonical_name not in ONE_PACKET_A_FRAME
    before: int | None = None
    key_pts: int | None = None
    for packet in container.demux(stream):
        if first is None:
            try:
                first = next(iter(packet.decode()), None)
            except av.error.InvalidDataError:
                odd = True
        if not packet.size:
            continue
        start = packet.pts
        backwards = before is not None and packet.dts is not None and packet.dts <= before
        before = packet.dts if packet.dts is not None else before
        if start is None or packet.is_discard or packet.is_corrupt or backwards:
            odd, sorted_keys = True, False
            start = before or 0
        if packet.is_keyframe:
            key_pts = start
            keyframes += 1
            whole = not h264 or holds_idr(bytes(packet), nal_length)
            whole_keys = whole_keys and whole
            keys += [start] * whole
        elif key_pts is not None and start < key_pts:
            odd = odd or keyframes == 1  # pictures that lead the first keyframe need what came before it
            sorted_keys = False
        odd = odd or not keyframes
        shown.append((start, packet.duration or 0))
    if first is None:
        raise nothing_shown()
    shown.sort()
    starts = [start for start, _ in shown]
    timed = bool(TIMED_CONTAINERS & names) and all(a < b for a, b in pairwise(starts))
    odd = odd or not timed or bool(first.interlaced_frame) or not keys
    return Index(
        look=look_of(stream, first),
        time_base=stream.time_base or Fraction(1, 1000),
        starts=tuple(starts),
        lasts=tuple(last for _, last in shown),
        keys=tuple(keys),
        odd=odd,
        seekable=sorted_keys and whole_keys and not odd,
    )
