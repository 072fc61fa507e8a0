"""Videos whose frames say which ones they are: bars that spell the frame's number in binary, red above."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from numpy.typing import NDArray

BITS = 8


def numbered(count: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """F H W 3. The upper quarter is red; below it, bar b is white where bit b of the frame's number is set."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:, : height // 4, :, 0] = 220
    for index in range(count):
        for bit in range(BITS):
            if index >> bit & 1:
                frames[index, height // 4 :, bit * width // BITS : (bit + 1) * width // BITS] = 255
    return frames


def numbers(frames: NDArray[np.uint8]) -> list[int]:
    """What the frames say: the inverse of `numbered`."""
    _, height, width, _ = frames.shape
    row = height * 5 // 8
    return [
        sum(1 << bit for bit in range(BITS) if frame[row, (2 * bit + 1) * width // (2 * BITS)].mean() > 127)
        for frame in frames
    ]


def shots(lengths: Sequence[int], height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """F H W 3. One coarse picture after another, each sliding to the left by a pixel every second frame."""
    random = np.random.default_rng(0)
    frames = []
    for length in lengths:
        blocks = random.integers(0, 256, (height // 16, (width + length) // 16 + 1, 3), np.uint8)
        picture = blocks.repeat(16, axis=0).repeat(16, axis=1)
        frames += [picture[:, frame // 2 : frame // 2 + width] for frame in range(length)]
    return np.stack(frames)


def spoil(source: Path, path: Path, start: float) -> Path:
    """The file with its last bytes, from the share `start` on, replaced by noise; the index at its front is whole."""
    data = bytearray(source.read_bytes())
    first = int(len(data) * start)
    data[first:] = np.random.default_rng(0).bytes(len(data) - first)
    path.write_bytes(data)
    return path


def encode(
    path: Path,
    frames: NDArray[np.uint8],
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    fps: int = 16,
    times_ms: Sequence[int] | None = None,
    last_ms: int = 0,
    rotation_deg: int = 0,
) -> Path:
    """Write a video with full control of the encoder; the index of an mp4 comes first."""
    faststart = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=faststart) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.thread_count = pixel_format, 1
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
            stream.codec_context.flags |= Flags.frame_duration if last_ms else 0
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.time_base = Fraction(1, fps) if times_ms is None else Fraction(1, 1000)
            frame.pts = index if times_ms is None else times_ms[index]
            if times_ms is not None and last_ms:
                frame.duration = (*times_ms, times_ms[-1] + last_ms)[index + 1] - times_ms[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def truncate(source: Path, path: Path, share: float) -> Path:
    """The first part of a file."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
