#!/usr/bin/env bash
# PyAV 18.1.0: `add_stream_from_template` of an AV1 stream, to copy its packets, looks for an encoder of the decoder's name
# and fails ("libdav1d"). With `opaque=True` the same copy works.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --root-user-action ignore --target "$folder" "av==18.1.0" "numpy<3"
cd "$folder"
PYTHONPATH=$folder python3 - 2> /dev/null <<'PY'
from fractions import Fraction
import av
import numpy as np

with av.open("a.mp4", "w") as container:
    stream = container.add_stream("libsvtav1", rate=25)
    stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
    for index in range(10):
        frame = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 20 * index, np.uint8), format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, 25)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())

def copied(**how):
    try:
        with av.open("a.mp4") as source, av.open("copy.mp4", "w") as target:
            target.add_stream_from_template(source.streams.video[0], **how)
            return "works"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

plain, opaque = copied(), copied(opaque=True)
print(f"PyAV {av.__version__}: {plain}; with opaque=True: {opaque}")
raise SystemExit(0 if plain != "works" == opaque else 1)
PY
