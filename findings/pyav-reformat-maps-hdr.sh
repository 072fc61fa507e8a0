#!/usr/bin/env bash
# PyAV 18.1.0: `VideoFrame.reformat(dst_color_trc=...)` is documented to tag only ("it does not perform a pixel-level
# transfer function conversion"). It does convert: PQ grey of 203 cd/m2, code 0.58, becomes the white of SDR. Without the
# argument it stays the code. The saturated colours of the conversion are far off: a pure blue of BT.709 gains green.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --root-user-action ignore --target "$folder" "av==18.1.0" "numpy<3"
PYTHONPATH=$folder python3 - <<'PY'
import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc

def pq(nits):
    power = (np.asarray(nits) / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375

def seen(nits_in_bt2020, **how):
    red, green, blue = pq(nits_in_bt2020)
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    codes = 64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746
    frame = av.VideoFrame(64, 64, "yuv444p10le")
    for plane, code in zip(frame.planes, codes):
        plane.update(np.full(plane.buffer_size // 2, round(code), "<u2").tobytes())
    frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range = 9, 9, 16, 1
    return frame.reformat(format="rgb24", **how).to_ndarray()[32, 32].tolist()

how = {"dst_color_trc": ColorTrc.BT709, "dst_color_primaries": ColorPrimaries.BT709}
white, blue = [203, 203, 203], (203 * np.array([0.0433, 0.0114, 0.8956])).tolist()
found = {"white as it is": seen(white), "white": seen(white, **how), "blue of BT.709": seen(blue, **how)}
print(av.__version__, found)
surprising = max(found["white as it is"]) < 160 and min(found["white"]) > 250 and found["blue of BT.709"][1] > 40
raise SystemExit(0 if surprising else 1)
PY
