"""A decoded frame as a viewer sees it: upright, in square pixels, in SDR, without combs.

swscale and libavfilter do the work, and `mimir_ray.video.light` where light is HDR; what is decided here is what they
are told. Sizes are of frames as displayed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import av
import av.error
import av.filter
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from mimir_ray.video.light import (
    BT601,
    BT709,
    BT2020,
    HLG,
    PQ,
    SRGB,
    UNSPECIFIED,
    WHITE,
    WHITE_OF_LIMITED,
    in_sdr,
    needs_mapping,
)

PixelFormat = Literal["rgb24", "bgr24", "gray8", "yuv420p"]

SMPTE240M, RGB_MATRIX = 7, 0  # matrices in ISO/IEC 23091-2
TRANSFERS = {PQ: "pq", HLG: "hlg", UNSPECIFIED: "unspecified", BT709: "bt709", BT601: "bt601", SRGB: "srgb"}
"""Names of the common ones; the others go by their number in ISO/IEC 23091-2."""
LONGEST_PIXEL = 4
HDR = frozenset({"pq", "hlg"})
_MATRICES = {
    BT709: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    BT601: Colorspace.ITU601,
    SMPTE240M: Colorspace.SMPTE240M,
    BT2020: Colorspace.BT2020,
    10: Colorspace.BT2020,
}


@dataclass(frozen=True)
class Pose:
    """How a stored picture is set up to be displayed: its rows and columns exchanged first, then turned over."""

    transposed: bool = False
    right_to_left: bool = False
    upside_down: bool = False

    @property
    def mirrored(self) -> bool:
        """Whether writing would read backwards without it."""
        return (self.transposed + self.right_to_left + self.upside_down) % 2 == 1

    @property
    def rotation_deg(self) -> int:
        """Counter-clockwise turn that makes the stored picture upright, after it was mirrored where it is."""
        columns = self.right_to_left != self.mirrored
        if self.transposed:
            return 270 if columns else 90
        return 180 if columns and self.upside_down else 0

    def place(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A picture H W (or H W 3) as it is displayed."""
        if self.transposed:
            picture = picture.swapaxes(0, 1)
        if self.right_to_left:
            picture = picture[:, ::-1]
        return picture[::-1] if self.upside_down else picture

    def stored(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Width and height before it is set up, of a picture that has these after it."""
        return (height_px, width_px) if self.transposed else (width_px, height_px)


def pose_of(frame: av.VideoFrame) -> Pose:
    """The pose by the display matrix; one that turns by other than quarters counts as the nearest quarter."""
    carried: Any = frame.side_data
    if (matrix := carried.get(SideData.DISPLAYMATRIX)) is None:
        return Pose()
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32)  # x' = a x + c y, y' = b x + d y; y points down
    if abs(int(b)) > abs(int(a)):
        return Pose(transposed=True, right_to_left=bool(c < 0), upside_down=bool(b < 0))
    return Pose(right_to_left=bool(a < 0), upside_down=bool(d < 0))


def aspect_of(stated: Fraction | None) -> Fraction:
    """Width of a stored pixel over its height; one that no picture has is a fault of the file, and taken for square."""
    return stated if stated and 1 / LONGEST_PIXEL <= stated <= LONGEST_PIXEL else Fraction(1)


def displayed_size(frame: av.VideoFrame, pose: Pose, pixel_aspect: Fraction) -> tuple[int, int]:
    """Width and height in square pixels: the side on which pixels are longer is stretched, so nothing is lost."""
    width, height = Fraction(frame.width), Fraction(frame.height)
    if pixel_aspect > 1:
        width *= pixel_aspect
    else:
        height /= pixel_aspect
    return pose.stored(round(width), round(height))


def transfer_of(frame: av.VideoFrame) -> str:
    """The name of its transfer curve."""
    return TRANSFERS.get(frame.color_trc, str(frame.color_trc))


def matrix_of(frame: av.VideoFrame) -> int:
    """The matrix by its tag; without one as players assume: BT.709 above 576 lines or from 1280 columns, or BT.601."""
    if frame.colorspace in _MATRICES or frame.colorspace == RGB_MATRIX:
        return int(frame.colorspace)
    return BT709 if frame.width >= 1280 or frame.height > 576 else BT601


class Painter:
    """Makes pictures of decoded frames; it keeps swscale's tables."""

    def __init__(self) -> None:
        self._reformatter, self._decoder = VideoReformatter(), VideoReformatter()

    def paint(
        self, frame: av.VideoFrame, pose: Pose, width_px: int, height_px: int, pixel_format: PixelFormat
    ) -> NDArray[np.uint8]:
        """H W 3, or H W of grey, as displayed at this size. Grey is the frame's luma, from 0 to 255."""
        picture = self.converted(frame, *pose.stored(width_px, height_px), pixel_format)
        return pose.place(np.asarray(picture.to_ndarray(), np.uint8))

    def converted(
        self, frame: av.VideoFrame, width_px: int, height_px: int, pixel_format: PixelFormat
    ) -> av.VideoFrame:
        """The frame in this format and size, as stored: not turned yet.

        What is HDR or has wide primaries becomes SDR with those of BT.709. `yuv420p` keeps the frame's matrix, BT.709
        of what was mapped, and has limited range.
        """
        matrix = matrix_of(frame)
        if needs_mapping(frame):
            frame, matrix = self._mapped(frame, matrix, width_px, height_px), RGB_MATRIX
        if pixel_format == "gray8":
            # Knowing the matrix, swscale goes by way of RGB, and comes back with that of BT.601.
            tag, frame.colorspace = frame.colorspace, UNSPECIFIED
            try:
                return self._reformatter.reformat(frame, width_px, height_px, pixel_format, threads=1)
            finally:
                frame.colorspace = tag
        written = pixel_format == "yuv420p" or matrix == RGB_MATRIX
        return self._reformatter.reformat(
            frame,
            width_px,
            height_px,
            pixel_format,
            src_colorspace=_MATRICES.get(matrix),
            dst_colorspace=_MATRICES[written_matrix(matrix)] if written else None,
            dst_color_range=ColorRange.MPEG if pixel_format == "yuv420p" else None,
            threads=1,
        )

    def _mapped(self, frame: av.VideoFrame, matrix: int, width_px: int, height_px: int) -> av.VideoFrame:
        if frame.colorspace == UNSPECIFIED and frame.color_primaries in (BT2020, UNSPECIFIED):
            matrix = BT2020
        rgb = self._decoder.reformat(
            frame, width_px, height_px, "rgb48le", src_colorspace=_MATRICES.get(matrix), threads=1
        )
        full = matrix == RGB_MATRIX or frame.color_range == ColorRange.JPEG
        pixels_HWC = in_sdr(
            np.asarray(rgb.to_ndarray(), np.uint16),
            WHITE if full else WHITE_OF_LIMITED,
            frame.color_trc,
            frame.color_primaries,
        )
        return av.VideoFrame.from_ndarray(pixels_HWC, format="rgb24")


def written_matrix(matrix: int) -> int:
    """The matrix in which frames of this one are written: H.264 players know two."""
    return matrix if matrix in (BT601, 5) else BT709


def deinterlaced(frames: Iterable[av.VideoFrame], base: Fraction) -> Iterator[av.VideoFrame]:
    """The frames, from the first interlaced one on through bwdif: as many as before, at the same times.

    A frame that is not interlaced passes as it is. One picture is made of two fields, so half of the motion's steps are
    dropped: the frames stay those that the file counts, which spans and times rely on. Raises what FFmpeg raises.
    """
    graph: av.filter.Graph | None = None
    waiting: list[av.VideoFrame] = []
    size: tuple[int, int, str] | None = None
    for frame in frames:
        if graph is not None and size != _size(frame):
            yield from _drained(graph, waiting)
            graph = None
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if graph is None:
            graph, size = _bwdif(frame, base), _size(frame)
        yield from _through(graph, frame, waiting)
    if graph is not None:
        yield from _drained(graph, waiting)


def _size(frame: av.VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


def _bwdif(frame: av.VideoFrame, base: Fraction) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
    graph.configure()
    return graph


def _through(
    graph: av.filter.Graph, frame: av.VideoFrame | None, waiting: list[av.VideoFrame]
) -> Iterator[av.VideoFrame]:
    """Push a frame, or the end, and yield what comes out, with the times of what went in."""
    if frame is not None:
        waiting.append(frame)
    graph.vpush(frame)
    while True:
        try:
            made = graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        whole = waiting.pop(0)
        made.pts, made.time_base = whole.pts, whole.time_base
        yield made


def _drained(graph: av.filter.Graph, waiting: list[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    yield from _through(graph, None, waiting)
    yield from waiting  # a filter may swallow its last frame
    waiting.clear()
