#!/usr/bin/env bash
# decord 0.6.0: a recording that begins between two keyframes has frames that no decoder can show. decord counts their
# packets too, and what it returns for an index depends on what was read before: alone it is another picture than in a row.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --root-user-action ignore --target "$folder" "decord==0.6.0" "av==18.1.0" "numpy<3"
cd "$folder"
PYTHONPATH=$folder python3 - <<'PY'
from fractions import Fraction
import av, decord
import numpy as np

av.logging.set_level(None)
with av.open("whole.mp4", "w") as container:
    stream = container.add_stream("libx264", rate=25, options={"g": "50", "bf": "2", "sc_threshold": "0"})
    stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
    for index in range(200):
        frame = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 20 + index, np.uint8), format="rgb24")  # its number
        frame.pts, frame.time_base = index, Fraction(1, 25)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
with av.open("whole.mp4") as source, av.open("late.mp4", "w") as target:
    stream = source.streams.video[0]
    copied, first = target.add_stream_from_template(stream), None
    for packet in [packet for packet in source.demux(stream) if packet.dts is not None][20:]:
        first = packet.dts if first is None else first
        packet.stream, packet.pts, packet.dts = copied, packet.pts - first, packet.dts - first
        target.mux(packet)
with av.open("late.mp4") as container:
    shown = [round(frame.to_ndarray(format="rgb24").mean()) - 20 for frame in container.decode(video=0)]
reader = decord.VideoReader("late.mp4")
alone = round(float(reader[60].asnumpy().mean())) - 20
row = [round(float(frame.mean())) - 20 for frame in decord.VideoReader("late.mp4").get_batch(list(range(61))).asnumpy()]
print(f"decord {decord.__version__} counts {len(reader)} frames, FFmpeg shows {len(shown)}; the frame at 60 is number "
      f"{alone} read alone, {row[60]} in a row, {shown[60]} by FFmpeg")
raise SystemExit(0 if len(reader) > len(shown) and len({alone, row[60], shown[60]}) > 1 else 1)
PY
