"""Frames to mp4: H.264, 4:2:0, playable everywhere and written all at once or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from mimir_ray.video.errors import VideoError

CRF = 14
PRESET = "veryfast"
BT601 = 6  # SMPTE 170M in ISO/IEC 23091-2: matrix, primaries and transfer that swscale uses for untagged RGB
LIMITED_RANGE = 1


def write_mp4(path: str | Path, frames_FHWC: NDArray[np.uint8], fps: float) -> None:
    """Write `frames_FHWC` (F H W 3, uint8 RGB, H and W even) at a constant rate of `fps` frames per second.

    The file appears under its name only when it is complete. One encoder thread, so that many writers share a machine.
    Raises VideoError for frames that H.264 4:2:0 cannot hold.
    """
    with whole_file(path) as partial:
        _encode(partial, frames_FHWC, fps)


def encode_mp4(frames_FHWC: NDArray[np.uint8], fps: float) -> bytes:
    """The bytes of the file that `write_mp4` would write."""
    with tempfile.TemporaryDirectory(prefix="mimir_mp4_") as folder:  # moving the index to the front needs a real file
        file = Path(folder) / "video.mp4"
        _encode(file, frames_FHWC, fps)
        return file.read_bytes()


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A name to write to that becomes `path` at the end of the block; after an error nothing of it is left."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name[:200]}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def open_mp4(file: str | Path) -> "av.container.OutputContainer":
    """An empty mp4 whose index will come first, so that it plays before all of it has arrived."""
    return av.open(str(file), "w", format="mp4", options={"movflags": "+faststart"})


def add_h264(
    container: "av.container.OutputContainer", rate: Fraction, width_px: int, height_px: int, crf: int, preset: str
) -> "av.VideoStream":
    """An H.264 4:2:0 stream in limited range, encoded by one thread, the same bytes for the same frames."""
    # Without macroblock trees the same small frames give the same bytes every time.
    options = {"crf": str(crf), "preset": preset, "x264-params": "mbtree=0"}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
    stream.thread_count = 1
    stream.codec_context.color_range = LIMITED_RANGE
    return stream


def _encode(file: Path, frames_FHWC: NDArray[np.uint8], fps: float) -> None:
    height, width = _check(frames_FHWC, fps)
    rate = Fraction(fps).limit_denominator(60_000)
    with open_mp4(file) as container:
        stream = add_h264(container, rate, width, height, CRF, PRESET)
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT601
        for index, frame_HWC in enumerate(frames_FHWC):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _check(frames_FHWC: NDArray[np.uint8], fps: float) -> tuple[int, int]:
    if frames_FHWC.ndim != 4 or frames_FHWC.shape[-1] != 3 or frames_FHWC.dtype != np.uint8 or not len(frames_FHWC):
        raise VideoError(
            f"frames have shape {frames_FHWC.shape} and type {frames_FHWC.dtype}; "
            "an mp4 takes at least one frame as F x H x W x 3 of uint8"
        )
    _, height, width, _ = frames_FHWC.shape
    if height % 2 or width % 2:
        raise VideoError(
            f"frames of {width}x{height} px have an odd side; H.264 4:2:0 needs even ones: crop or pad by 1"
        )
    if not fps > 0:
        raise VideoError(f"fps is {fps}; it must be above 0")
    return height, width
