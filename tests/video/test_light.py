"""Colours: as FFmpeg's own program converts them, and libzimg, which it carries and PyAV does not."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from mimir_ray.video import View, cut_clip, probe, read_frames, scan_video
from tests.video.players import record, screen

PATCHES = np.array(
    [[255, 255, 255], [0, 0, 0], [128, 128, 128], [224, 172, 140], [200, 30, 30], [30, 200, 30], [30, 30, 200],
     [200, 200, 30], [30, 200, 200], [200, 30, 200], [90, 60, 40], [60, 120, 190]], np.uint8)  # fmt: skip
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # BT.2087
NITS = [0, 0.1, 1, 5, 10, 25, 50, 100, 150, 203, 250, 400, 1000]
EVERYWHERE = {"bt709": "bt709", "bt601": "smpte170m", "bt2020": "bt2020nc"}


def painted(width: int, height: int, count: int = 3) -> NDArray[np.uint8]:
    """F H W 3: twelve patches in three rows."""
    rows = np.repeat(np.repeat(PATCHES.reshape(3, 4, 3), height // 3, 0), width // 4, 1)
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: rows.shape[0], : rows.shape[1]] = rows
    return np.repeat(picture[None], count, 0)


def patches(picture: NDArray[np.uint8]) -> NDArray[np.int_]:
    height, width = picture.shape[:2]
    rows = [row * (height // 3) + height // 6 for row in range(3)]
    columns = [column * (width // 4) + width // 8 for column in range(4)]
    return picture[np.ix_(rows, columns)].reshape(12, -1).astype(int)


def tagged(path: Path, size: tuple[int, int], matrix: str, full: bool, tags: str, pixel_format: str) -> Path:
    spread = f"scale=out_color_matrix={matrix}:out_range={'pc' if full else 'tv'},format={pixel_format}"
    known = f"setparams=colorspace={tags}:color_primaries=bt709:color_trc=bt709"
    unknown = "setparams=colorspace=unknown:color_primaries=unknown:color_trc=unknown"
    chain = f"{spread},{known if tags else unknown}"
    return record(path, painted(*size), "-vf", chain, "-c:v", "libx264", "-qp", 2, "-color_range", 1 + full)


def is_painted(path: Path, out: Path) -> None:
    """Both decoders read the patches, and so does a player of the clip that is cut."""
    read = read_frames(path, [1])
    assert np.abs(patches(read.frames[0]) - PATCHES).max() <= 4
    np.testing.assert_array_equal(read.frames, read_frames(path, [1], decord=False).frames)
    cut_clip(path, out, 0, 3, mode="reencode", timeout_s=60)
    height, width = read.frames.shape[1:3]
    assert np.abs(patches(screen(out, width, height).frames[1]) - PATCHES).max() <= 7
    assert np.abs(patches(read_frames(out, [1]).frames[0]) - PATCHES).max() <= 7


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p10le"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", EVERYWHERE)
def test_tags_are_believed(tmp_path: Path, matrix: str, full: bool, pixel_format: str) -> None:
    path = tagged(tmp_path / "a.mkv", (160, 96), matrix, full, EVERYWHERE[matrix], pixel_format)
    is_painted(path, tmp_path / "out.mp4")


@pytest.mark.parametrize(
    ("size", "matrix"),
    [
        ((160, 96), "bt601"),
        ((720, 480), "bt601"),
        ((720, 576), "bt601"),
        ((160, 600), "bt709"),
        ((1280, 96), "bt709"),
        ((1280, 720), "bt709"),
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_without_tags_players_go_by_the_size(tmp_path: Path, size: tuple[int, int], matrix: str, full: bool) -> None:
    path = tagged(tmp_path / "a.mkv", size, matrix, full, "", "yuv420p")
    is_painted(path, tmp_path / "out.mp4")
    assert read_frames(path, [0]).decoder == ("pyav" if matrix == "bt709" else read_frames(path, [0]).decoder)


@pytest.mark.parametrize(("codec", "pixel_format"), [("libx264rgb", "rgb24"), ("ffv1", "gbrp10le"), ("png", "rgba")])
def test_rgb_stays_what_it_is(tmp_path: Path, codec: str, pixel_format: str) -> None:
    lossless = ("-qp", 0) if codec == "libx264rgb" else ()
    path = record(tmp_path / "a.mkv", painted(160, 96), "-c:v", codec, "-pix_fmt", pixel_format, *lossless)
    is_painted(path, tmp_path / "out.mp4")


def test_grey_is_luma_from_0_to_255(tmp_path: Path) -> None:
    path = record(tmp_path / "a.mkv", painted(160, 96), "-c:v", "ffv1", "-pix_fmt", "gray")
    grey = np.rint(PATCHES @ [0.299, 0.587, 0.114])
    assert np.abs(patches(read_frames(path, [0]).frames[0])[:, 0] - grey).max() <= 1
    for pixel_format in ("yuv420p", "yuvj420p"):
        path = record(tmp_path / "a.mp4", painted(160, 96), "-c:v", "libx264", "-qp", 2, "-pix_fmt", pixel_format)
        frame = list(scan_video(path, [View("gray8", None)]))[1]
        assert np.abs(patches(frame.pictures[0][..., None])[:, 0] - grey).max() <= 2


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("tags", ["", "bt709"])
def test_grey_of_a_large_video_is_luma_by_the_matrix_of_bt709(tmp_path: Path, tags: str, full: bool) -> None:
    path = tagged(tmp_path / "a.mkv", (1280, 720), "bt709", full, tags, "yuv444p")
    frame = list(scan_video(path, [View("gray8", None)]))[1]
    grey = np.rint(PATCHES @ [0.2126, 0.7152, 0.0722])
    assert np.abs(patches(frame.pictures[0][..., None])[:, 0] - grey).max() <= 2


def pq(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """ITU-R BT.2100, table 4."""
    power = (nits / 10_000) ** 0.1593017578125
    return np.asarray(((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


def hlg(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """ITU-R BT.2100, table 5, for a display of 1,000 cd/m2."""
    shown = nits @ [0.2627, 0.6780, 0.0593] / 1000
    scene = nits / 1000 * np.where(shown > 0, shown, 1)[:, None] ** (1 / 1.2 - 1)
    bent = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bent)


def in_hdr(path: Path, codes: NDArray[np.float64], transfer: int) -> Path:
    """Columns 16 px wide with these codes of R, G, B in BT.2020, in 10 bits."""
    red, green, blue = codes.T
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = 64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746
    width = 16 * len(codes)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=25, options={"x265-params": "log-level=none:qp=1"})
        stream.width, stream.height, stream.pix_fmt = width, 48, "yuv444p10le"
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 9, 9, transfer, 1
        for index in range(3):
            frame = av.VideoFrame(width, 48, "yuv444p10le")
            for plane, values in zip(frame.planes, planes, strict=True):
                row = np.zeros(plane.line_size // 2, "<u2")
                row[:width] = np.rint(values).astype("<u2").repeat(16)
                plane.update(np.tile(row, (48, 1)).tobytes())
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def columns(picture: NDArray[np.uint8]) -> NDArray[np.int_]:
    return picture[24, 8::16].astype(int)


@pytest.mark.parametrize(("curve", "transfer"), [(pq, 16), (hlg, 18)])
def test_greys_of_hdr_are_what_they_are_in_sdr(tmp_path: Path, curve: type[pq], transfer: int) -> None:
    nits = np.repeat(np.array(NITS, float)[:, None], 3, 1)
    path = in_hdr(tmp_path / "a.mkv", curve(nits), transfer)
    expected = 255 * (nits / 203).clip(0, 1) ** (1 / 2.4)  # BT.2408's white, BT.1886's gamma
    assert np.abs(columns(read_frames(path, [1]).frames[0]) - expected).max() < 1.6
    assert probe(path).transfer == {16: "pq", 18: "hlg"}[transfer]
    assert probe(path).hdr


@pytest.mark.parametrize(("curve", "transfer"), [(pq, 16), (hlg, 18)])
def test_colours_of_hdr_are_what_they_are_in_sdr(tmp_path: Path, curve: type[pq], transfer: int) -> None:
    path = in_hdr(tmp_path / "a.mkv", curve(203 * (PATCHES / 255) ** 2.4 @ TO_BT2020.T), transfer)
    assert np.abs(columns(read_frames(path, [1]).frames[0]) - PATCHES).max() <= 7  # of 10 bits, in the darkest
    cut_clip(path, tmp_path / "out.mp4", 0, 3, mode="reencode", timeout_s=60)
    clip = probe(tmp_path / "out.mp4")
    assert (clip.transfer, clip.hdr, clip.pixel_format) == ("bt709", False, "yuv420p")


def test_pq_is_mapped_as_by_libzimg(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    nits = np.concatenate([random.uniform(0, 203, (40, 3)), random.uniform(0, 1000, (20, 3))])
    path = in_hdr(tmp_path / "a.mkv", pq(nits), 16)
    linear = "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709"
    expected = screen(path, 960, 48, f"{linear},zscale=t=bt709:m=bt709:r=tv,format=yuv444p10le").frames[1]
    found = columns(read_frames(path, [1]).frames[0])
    inside = (columns(expected) > 0).all(1) & (columns(expected) < 255).all(1)
    assert inside.sum() >= 15
    assert np.abs(found - columns(expected))[inside].max() <= 2


@pytest.mark.parametrize("primaries", ["bt2020", "smpte432"])
@pytest.mark.parametrize("transfer", ["bt709", "iec61966-2-1"])
def test_wide_gamuts_of_sdr_become_bt709_as_by_libzimg(tmp_path: Path, primaries: str, transfer: str) -> None:
    tags = f"setparams=colorspace=bt709:color_primaries={primaries}:color_trc={transfer}:range=tv"
    chain = f"scale=out_color_matrix=bt709:out_range=tv,format=yuv444p10le,{tags}"
    path = record(tmp_path / "a.mkv", painted(160, 96), "-vf", chain, "-c:v", "libx264", "-qp", 2)
    player = screen(path, 160, 96, "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,"
                    f"zscale=t={transfer}:m=bt709:r=tv,format=yuv444p10le")  # fmt: skip
    found, expected = (patches(frames[1]) for frames in (read_frames(path, range(3)).frames, player.frames))
    assert np.abs(found - PATCHES).max() > 20  # it is wider
    inside = (expected > 0) & (expected < 255)
    assert np.abs(found - expected)[inside].max() <= 4
