"""What FFmpeg's own program makes and shows of files: the frames that players show, from outside of our code."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


@dataclass(frozen=True)
class Screen:
    """The frames F H W 3 that a player shows, when, from 0 on, and when the last one ends."""

    frames: NDArray[np.uint8]
    times_s: NDArray[np.float64]
    end_s: float


def ffmpeg(*arguments: object, pixels: NDArray[np.uint8] | None = None) -> bytes:
    """Run it, with frames on its standard input; what it writes to its standard output."""
    data = None if pixels is None else np.ascontiguousarray(pixels).tobytes()
    command = [FFMPEG, "-v", "error", "-y", *([] if data else ["-nostdin"]), *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout


def record(path: Path, frames: NDArray[np.uint8], *arguments: object, fps: float = 25) -> Path:
    """Encode frames F H W 3 as the arguments say."""
    _, height, width, _ = frames.shape
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", fps, "-i", "-")
    ffmpeg(*source, *arguments, path, pixels=frames)
    return path


def screen(path: Path, width_px: int, height_px: int, filters: str = "null") -> Screen:
    """Every frame as it is decoded and turned upright, filtered, scaled to this size."""
    chain = f"showinfo,{filters},scale={width_px}:{height_px}"
    output = ("-fps_mode", "passthrough", "-vf", chain, "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    done = subprocess.run([FFMPEG, "-hide_banner", "-nostdin", "-i", str(path), *output], capture_output=True)
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height_px, width_px, 3)
    said = re.findall(r"showinfo.*? pts_time:\s*(\S+) .*?duration_time:\s*(\S+)", done.stderr.decode())
    assert len(said) == len(frames) > 0, done.stderr.decode()[-2000:]
    times_s = np.array([float(time_s) for time_s, _ in said])
    return Screen(frames, times_s - times_s[0], float(said[-1][1]) + times_s[-1] - times_s[0])
