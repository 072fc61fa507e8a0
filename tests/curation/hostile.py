"""Files that nobody should have to curate, and what must become of each: `build` writes them, `EXPECTED` says it.

An expectation is the table that tells the file's fate, its status there, and words that its reason must hold.
"""

import os
import random
import socket
import struct
import zipfile
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

from tests.curation.rendering import Video, moving
from tests.video.rendering import encode


class Fate(NamedTuple):
    """What must become of a file."""

    table: str
    status: str
    words: str = ""


KEPT = Fate("clips", "ok")


def unread(words: str) -> Fate:
    """The file is quarantined before there is a clip."""
    return Fate("videos", "quarantined", words)


def rejected(words: str) -> Fate:
    """The clip falls short of a rule."""
    return Fate("clips", "rejected", words)


CUT_OFF = "cut off"
NO_VIDEO = "is not a video that FFmpeg understands"
NO_STREAM = "holds no video stream"

EXPECTED: dict[str, Fate] = {}
BUILDERS: list[Callable[[Path], None]] = []


def builder(function: Callable[[Path], None]) -> Callable[[Path], None]:
    """Add a function to those that `build` calls with the folder."""
    BUILDERS.append(function)
    return function


def build(folder: Path) -> None:
    """Write every file."""
    folder.mkdir(parents=True, exist_ok=True)
    for function in BUILDERS:
        function(folder)


_shades = product(range(120, 250, 5), range(20, 100, 20))


def video(frames: int = 65, height: int = 64, width: int = 64) -> Video:
    """A good clip that no other one here equals."""
    background, square = next(_shades)
    return moving(frames, height, width, background, square)


def add(path: Path, data: bytes, fate: Fate) -> None:
    """Write a file and say what must become of it."""
    path.write_bytes(data)
    EXPECTED[path.name] = fate


def good(folder: Path, suffix: str = ".mp4") -> bytes:
    """The bytes of a good clip."""
    file = encode(folder / f".good{suffix}", video())
    data = file.read_bytes()
    file.unlink()
    return data


def at_end(folder: Path) -> bytes:
    """The bytes of a good clip whose index comes last, as cameras write it."""
    file = folder / ".late.mov"
    with av.open(str(file), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width = stream.height = 64
        for index, pixels in enumerate(video()):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 16)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = file.read_bytes()
    file.unlink()
    return data


@builder
def truncations(folder: Path) -> None:
    """An mp4 with its index first, one with its index last and a Matroska file, cut at many offsets."""
    first, last, matroska = good(folder), at_end(folder), good(folder, ".mkv")
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        add(folder / f"first {share}.mp4", first[: int(len(first) * share)], unread(""))
        add(folder / f"last {share}.mp4", last[: int(len(last) * share)], unread(""))
    for share in (0.02, 0.3, 0.6, 0.85):
        add(folder / f"matroska {share}.mkv", matroska[: int(len(matroska) * share)], unread(""))
    add(folder / "one byte short.mp4", first[:-1], unread(CUT_OFF))


@builder
def flipped_bits(folder: Path) -> None:
    """Damage in the index, and in the pictures, which a decoder may conceal: any fate but a crash."""
    data = good(folder)
    pictures = data.index(b"mdat")
    rng = random.Random(0)
    for name, low, high in (("index", 0, pictures), ("pictures", pictures + 4, len(data))):
        for count in (1, 30, 300):
            damaged = bytearray(data)
            for _ in range(count):
                damaged[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
            add(folder / f"flipped {count} {name}.mp4", bytes(damaged), Fate("", ""))


@builder
def other_things(folder: Path) -> None:
    """What is not a video at all."""
    picture = folder / ".picture.png"
    Image.fromarray(video(1)[0]).save(picture)
    add(folder / "picture.mp4", picture.read_bytes(), rejected("has 1 frames"))
    picture.unlink()
    add(folder / "words.mp4", b"This is a text that somebody renamed.\n" * 50, unread(NO_VIDEO))
    add(folder / "page.webm", b"<!doctype html><html><body>404 Not Found</body></html>", unread(NO_VIDEO))
    add(folder / "json.mov", b'{"error": "not found"}', unread(NO_VIDEO))
    add(folder / "random.mp4", random.Random(1).randbytes(1 << 16), unread(NO_VIDEO))
    add(folder / "zeros.mp4", bytes(1 << 20), unread(NO_VIDEO))
    add(folder / "empty.mp4", b"", unread("the file is empty (0 bytes)"))
    add(folder / "one byte.mp4", b"\0", unread(NO_VIDEO))
    add(folder / "pdf.mp4", b"%PDF-1.7\n" + bytes(2000), unread(NO_VIDEO))
    with zipfile.ZipFile(folder / "archive.mp4", "w") as archive:
        archive.writestr("a.txt", "a" * 1000)
    EXPECTED["archive.mp4"] = unread(NO_VIDEO)
    add(folder / "playlist.mp4", b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n", unread(""))
    add(folder / "concat.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n", unread(""))
    add(folder / "only ftyp.mp4", good(folder)[:32], unread(""))


@builder
def odd_containers(folder: Path) -> None:
    """Real containers with something other than a video in them, or with a lie."""
    data = good(folder)
    box = data.index(b"mdat") - 4
    add(folder / "no pictures.mp4", data[:box], unread(""))
    add(folder / "no index.mp4", data[:32] + data[box:], unread(""))
    add(folder / "garbage behind.mp4", good(folder) + random.Random(2).randbytes(5000), unread(CUT_OFF))
    add(folder / "garbage before.mp4", random.Random(3).randbytes(5000) + good(folder), unread(""))
    add(folder / "twice.mp4", good(folder) + good(folder), KEPT)
    sizes = bytearray(good(folder))
    place = sizes.index(b"stsz")
    sizes[place + 12 : place + 16] = b"\x7f\xff\xff\xff"
    add(folder / "two billion samples.mp4", bytes(sizes), unread(""))
    wide = bytearray(good(folder))
    place = wide.index(b"avc1", wide.index(b"stsd"))
    wide[place + 28 : place + 32] = b"\xff\xff\xff\xff"
    add(folder / "header says 65535 wide.mp4", bytes(wide), KEPT)
    add(folder / "huge.y4m", b"YUV4MPEG2 W100000 H100000 F25:1 Ip A1:1 C420\nFRAME\n" + bytes(1000), unread(""))
    add(folder / "avi head.avi", b"RIFF\xff\xff\xff\x7fAVI LIST" + bytes(500), unread(""))
    add(folder / "really matroska.mp4", good(folder, ".mkv"), KEPT)


@builder
def sound(folder: Path) -> None:
    """Audio without pictures."""
    for name, codec in (("sound.mp4", "aac"), ("sound.mkv", "pcm_s16le"), ("sound.avi", "pcm_s16le")):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=16000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16", layout="mono")
            frame.sample_rate = 16000
            resampler = av.AudioResampler(stream.codec_context.format, "mono", 16000)
            for part in resampler.resample(frame):
                container.mux(stream.encode(part))
            container.mux(stream.encode())
        EXPECTED[name] = unread(NO_STREAM)


@builder
def short_ones(folder: Path) -> None:
    """Hardly anything to see."""
    for frames in (1, 2, 3):
        encode(folder / f"{frames} frames.mp4", video(frames))
        EXPECTED[f"{frames} frames.mp4"] = rejected(f"has {frames} frames, at least 65 are needed")
    encode(folder / "dot.avi", video(65, 1, 1), codec="rawvideo", pixel_format="rgb24")
    EXPECTED["dot.avi"] = rejected("stands still")
    encode(folder / "line.avi", video(65, 1, 64), codec="rawvideo", pixel_format="rgb24")
    EXPECTED["line.avi"] = rejected("is too wide")
    encode(folder / "column.avi", video(65, 64, 1), codec="rawvideo", pixel_format="rgb24")
    EXPECTED["column.avi"] = rejected("is too tall")


@builder
def unusual_pictures(folder: Path) -> None:
    """Good clips in every shape that files of this world have."""
    hdr = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    for name, settings in {
        "ten bits.mp4": {"pixel_format": "yuv420p10le"},
        "hdr.mp4": {"codec": "libx265", "pixel_format": "yuv420p10le", "options": {"x265-params": hdr}},
        "open gop.mp4": {"codec": "libx265"},
        "b frames.mp4": {"options": {"bf": "4", "g": "30"}},
        "lossless.mkv": {"codec": "ffv1", "pixel_format": "yuv444p"},
        "old.avi": {"codec": "mpeg4"},
        "vp9.webm": {"codec": "libvpx-vp9"},
        "half chroma.mp4": {"pixel_format": "yuv422p"},
        "motion jpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
        "transport.ts": {},
    }.items():
        encode(folder / name, video(), **settings)  # type: ignore[arg-type]
        EXPECTED[name] = KEPT
    encode(folder / "turned.mp4", video(65, 128, 64), rotation_deg=90)
    EXPECTED["turned.mp4"] = KEPT
    encode(folder / "odd.mp4", video(65, 63, 65), pixel_format="yuv444p")
    EXPECTED["odd.mp4"] = KEPT
    times = np.cumsum(np.tile([20, 90, 40, 100], 17))[:65].tolist()
    encode(folder / "uneven.mp4", video(), times_ms=times)
    EXPECTED["uneven.mp4"] = KEPT
    encode(folder / "ten days.mkv", video(), times_ms=[*range(0, 640, 10), 864_000_000])
    EXPECTED["ten days.mkv"] = unread("limits.max_duration_s")
    encode(folder / "at once.mp4", video(), fps=1000)
    EXPECTED["at once.mp4"] = rejected("lasts 0.07 s")


@builder
def not_files(folder: Path) -> None:
    """What has a video's name and is no file."""
    os.mkfifo(folder / "pipe.mp4")
    EXPECTED["pipe.mp4"] = unread("is not a regular file")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # a socket's path has 107 bytes at most
        try:
            server.bind("socket.mp4")
        finally:
            os.chdir(here)
    EXPECTED["socket.mp4"] = unread("is not a regular file")
    (folder / "endless.mp4").symlink_to("/dev/zero")
    EXPECTED["endless.mp4"] = unread("is not a regular file")
    (folder / "gone.mp4").symlink_to("nowhere.mp4")
    EXPECTED["gone.mp4"] = unread("No such file")
    (folder / "itself.mp4").symlink_to("itself.mp4")
    EXPECTED["itself.mp4"] = unread("symbolic links")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "folder.mp4").mkdir()  # searched like any folder; it holds nothing
    encode(folder / "locked.mp4", video())
    (folder / "locked.mp4").chmod(0)
    EXPECTED["locked.mp4"] = KEPT if os.geteuid() == 0 else unread("permission denied")


@builder
def names(folder: Path) -> None:
    """Good clips under names that break scripts."""
    for name in (
        "two  spaces.mp4",
        'it\'s "quoted".mp4',
        "日本語 ünï 🎬.mp4",
        "-leading dash.mp4",
        "$(echo no) `no` %20 {x}.mp4",
        "new\nline.mp4",
        "back\\slash.mp4",
        "UPPER.MP4",
        "x" * 251 + ".mp4",
    ):
        encode(folder / ".name.mp4", video()).rename(folder / name)
        EXPECTED[name] = KEPT
    encode(folder / ".name.mp4", video()).rename(Path(os.fsdecode(os.fsencode(folder) + b"/not \xff utf-8.mp4")))
    EXPECTED["not \ufffd utf-8.mp4"] = unread("its name is not UTF-8: rename it")
    original = encode(folder / "a original.mp4", video())
    EXPECTED["a original.mp4"] = KEPT
    (folder / "b copy.mp4").write_bytes(original.read_bytes())
    EXPECTED["b copy.mp4"] = Fate("videos", "rejected", "has the same bytes as")
    (folder / "c hard link.mp4").hardlink_to(original)
    EXPECTED["c hard link.mp4"] = Fate("videos", "rejected", "has the same bytes as")


@builder
def changing(folder: Path) -> None:
    """Streams that change their minds: sizes in the middle, a second program, a cover picture."""
    small, large = folder / ".small.ts", folder / ".large.ts"
    encode(small, video(65, 64, 64))
    encode(large, video(65, 96, 96))
    add(folder / "grows.ts", small.read_bytes() + large.read_bytes(), KEPT)
    small.unlink()
    large.unlink()
    with av.open(str(folder / "many streams.mkv"), "w") as container:
        streams = [container.add_stream("libx264", rate=16) for _ in range(12)]
        for stream in streams:
            stream.width = stream.height = 64
        for index, pixels in enumerate(video()):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 16)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    EXPECTED["many streams.mkv"] = KEPT
    head = bytearray(good(folder))
    place = head.index(b"mvhd") + 16
    head[place : place + 4] = struct.pack(">I", 0)
    add(folder / "no timescale.mp4", bytes(head), KEPT)
