#!/usr/bin/env bash
# decord 0.6.0: of an mp4 with two videos of equal size, the first marked as default (a dash camera's front and rear),
# it reads the one with more bits. FFmpeg's `av_find_best_stream`, ffplay and browsers show the default one.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --root-user-action ignore --target "$folder" "decord==0.6.0" "av==18.1.0" "numpy<3"
cd "$folder"
PYTHONPATH=$folder python3 - <<'PY'
from fractions import Fraction
import av, decord
import numpy as np

noise = np.random.default_rng(0).integers(0, 40, (240, 320, 3), np.uint8)
with av.open("dual.mp4", "w") as container:
    streams = [container.add_stream("libx264", rate=25, options={"crf": crf}) for crf in ("35", "5")]
    for stream in streams:
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
    streams[0].disposition = av.stream.Disposition.default
    for index in range(50):
        for stream, level in zip(streams, (20, 200)):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, index, 1) + np.uint8(level), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
    for stream in streams:
        container.mux(stream.encode())
with av.open("dual.mp4") as container:
    best = container.streams.best("video")
    number = best.index
    player = next(container.decode(best)).to_ndarray(format="rgb24").mean()
read = decord.VideoReader("dual.mp4")[0].asnumpy().mean()
print(f"decord {decord.__version__}: mean level {read:.0f}; FFmpeg's best stream, {number}: {player:.0f}")
raise SystemExit(0 if read > 150 > 100 > player else 1)
PY
