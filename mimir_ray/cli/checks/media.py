"""Video: decoders, and a clip written and read back."""

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mimir_ray.cli.checks.finding import Finding, failure, ok, warning

USUAL_CODECS = ("h264", "hevc", "vp9", "av1")


def decoders() -> Iterator[Finding]:
    """PyAV with the codecs that videos usually have, and decord."""
    import av

    missing = [codec for codec in USUAL_CODECS if codec not in av.codecs_available]
    if missing:
        yield warning(
            "pyav",
            f"{av.__version__} cannot decode {', '.join(missing)}",
            "install PyAV from its wheel: pip install av",
        )
    else:
        yield ok("pyav", f"{av.__version__} decodes {', '.join(USUAL_CODECS)}")
    if importlib.util.find_spec("decord") is None:
        yield warning("decord", "not installed: all videos are read with PyAV", "wheels exist for Linux x86_64 only")
    else:
        yield ok("decord", importlib.metadata.version("decord"))


def round_trip() -> Iterator[Finding]:
    """Nine frames through libx264 into an mp4 and back, the way every stage does it."""
    import numpy as np

    from mimir_ray.video.read import read_frames
    from mimir_ray.video.write import write_mp4

    frames = np.full((9, 64, 64, 3), 128, dtype=np.uint8)
    frames[:, :32] = 224
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.mp4"
        write_mp4(path, frames, fps=8)
        read = read_frames(str(path), range(len(frames)), timeout_s=30)
    error = float(np.abs(read.frames.astype(int) - frames.astype(int)).mean())
    if read.frames.shape != frames.shape or error > 4:
        yield failure(
            "codec",
            f"9 frames came back as {read.frames.shape}, {error:.1f} of 255 off on average",
            "reinstall PyAV from its wheel: pip install --force-reinstall av",
        )
    else:
        yield ok("codec", f"libx264 writes and {read.decoder} reads 9 frames, {error:.1f} of 255 off on average")
