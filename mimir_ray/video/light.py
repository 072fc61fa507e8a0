"""Light of a frame in SDR with the primaries of BT.709, whatever curve and primaries it was recorded with.

HDR is mapped as it would be displayed: codes to cd/m2 by the curves of ITU-R BT.2100 (HLG on a display of 1,000), its
reference white of 203 (BT.2408) to the white of SDR, the primaries by a matrix (BT.2407, section 2), back to codes by
the gamma of 2.4 of SDR displays (BT.1886). What is brighter than white, or outside BT.709, is clipped: so everything up
to white looks as in SDR, and there is no curve above it to be chosen.

swscale does the same by a table that takes seconds to make for each size of picture, and in whose steps saturated
colours lose up to 70 of 255 levels. libzimg, which is exact, is no part of PyAV's wheels.
"""

from functools import lru_cache

import av
import numpy as np
from numpy.typing import NDArray

UNSPECIFIED = 2  # of matrix, primaries and transfer in ISO/IEC 23091-2
BT709, BT601, BT2020 = 1, 6, 9
PQ, HLG, SRGB = 16, 18, 13
WHITE_CD_M2 = 203.0
HLG_PEAK_CD_M2, HLG_GAMMA = 1000.0, 1.2

_D65 = 0.3127, 0.3290
_P3 = (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)
WIDE = {BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)), 11: _P3, 12: _P3}
"""Primaries that are converted, as x y of red, green and blue. Those of old television differ little from BT.709, and
no player converts them."""
_NARROW = (0.640, 0.330), (0.300, 0.600), (0.150, 0.060)
_CODES, _STEPS = 1 << 16, 1 << 12
WHITE, WHITE_OF_LIMITED = 65535, 255 << 8
"""White in RGB of 16 bits, and in what swscale makes of YUV in limited range."""
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020
_BAND_ROWS = 32  # what is being converted stays in the cache

Floats = NDArray[np.float32]


def needs_mapping(frame: av.VideoFrame) -> bool:
    """Whether its colours are not those of SDR in BT.709: a curve of HDR, or wide primaries."""
    return frame.color_trc in (PQ, HLG) or frame.color_primaries in WIDE


def in_sdr(codes_HWC: NDArray[np.uint16], white: int, transfer: int, primaries: int) -> NDArray[np.uint8]:
    """H W 3, from RGB with this white, curve and primaries; HDR has those of BT.2020 unless it says others."""
    hdr = transfer in (PQ, HLG)
    light_of, code_of = _decoding(transfer, white), _encoding(BT709 if hdr else transfer)
    matrix = _to_bt709(primaries if primaries in WIDE else BT2020)
    found_HWC = np.empty(codes_HWC.shape, np.uint8)
    for top in range(0, len(codes_HWC), _BAND_ROWS):
        light = light_of[codes_HWC[top : top + _BAND_ROWS]]
        if transfer == HLG:
            luminance = light @ _LUMINANCE
            light *= np.float32(HLG_PEAK_CD_M2 / WHITE_CD_M2) * luminance[..., None] ** np.float32(HLG_GAMMA - 1)
        shown = np.sqrt((light @ matrix.T).clip(0, 1))  # in steps of its root, dark codes are as exact as bright ones
        found_HWC[top : top + _BAND_ROWS] = code_of[(shown * (_STEPS - 1) + np.float32(0.5)).astype(np.uint16)]
    return found_HWC


@lru_cache
def _decoding(transfer: int, white: int) -> Floats:
    """The light of each code, 1 for the white of SDR; that of HLG is the scene's, before the display's gamma."""
    code = (np.arange(_CODES) / white).clip(0, 1)
    match transfer:
        case 16:
            power = code ** (1 / 78.84375)
            light = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
            light *= 10_000 / WHITE_CD_M2
        case 18:
            light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        case 13:
            light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
        case _:
            light = code**2.4
    return light.astype(np.float32)


@lru_cache
def _encoding(transfer: int) -> NDArray[np.uint8]:
    """The code of each root of light, both from 0 to the white of SDR."""
    light = np.linspace(0, 1, _STEPS) ** 2
    linear = light <= 0.0031308
    srgb = np.where(linear, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    code = srgb if transfer == SRGB else light ** (1 / 2.4)
    return np.rint(255 * code).astype(np.uint8)


@lru_cache
def _to_bt709(primaries: int) -> Floats:
    found = np.linalg.solve(_to_xyz(_NARROW), _to_xyz(WIDE[primaries]))
    return found.astype(np.float32)


def _to_xyz(primaries: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    """From RGB with these primaries and a white of D65 (SMPTE RP 177)."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    white = np.array([_D65[0] / _D65[1], 1, (1 - sum(_D65)) / _D65[1]])
    return np.asarray(columns * np.linalg.solve(columns, white))
