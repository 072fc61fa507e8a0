#!/usr/bin/env bash
# data-juicer 1.6.1: video_motion_score_filter resizes frames to (height, width), handed to OpenCV, which reads (width,
# height). A lying picture is squeezed into a standing one before its optical flow is taken, so that the score of a
# sideways move and that of an equal upward move differ, and the flow has the shape of the picture turned.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"  # of its own: data-juicer installs what it misses when it is imported
"$folder/bin/pip" install --quiet "py-data-juicer==1.6.1" "opencv-contrib-python-headless==5.0.0.93" "ray==2.60.0" aiohttp "numpy<3"
"$folder/bin/python" - <<'PY'
import sys

import cv2
import data_juicer
import numpy as np
from data_juicer.ops.filter.video_motion_score_filter import VideoMotionScoreFilter
from data_juicer.utils.constant import Fields, MetaKeys, StatsKeys

HEIGHT, WIDTH, STEP = 96, 192, 4
texture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), np.uint8), (0, 0), 5)
texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)

def measured(axis, size):
    """Mean flow in pixels of a picture that moves by STEP pixels a frame, and the shape of the flow."""
    frames = [cv2.imencode(".png", np.roll(texture, STEP * n, axis=axis))[1].tobytes() for n in range(3)]
    sample = {"frames": [frames], Fields.stats: {}, Fields.meta: {}}
    scorer = VideoMotionScoreFilter(frame_field="frames", size=size, if_output_optical_flow=True)
    found = scorer.compute_stats_single(sample)
    (score,) = found[Fields.stats][StatsKeys.video_motion_score]
    return round(score, 2), np.shape(found[Fields.meta][MetaKeys.video_optical_flow][0])[1:3]

print(f"data-juicer {data_juicer.__version__}, OpenCV {cv2.__version__}; frames of {HEIGHT} x {WIDTH}, moving {STEP} px a frame")
seen = {}
for size in (None, HEIGHT // 2):
    seen[size] = measured(1, size), measured(0, size)
    (sideways, shape), (upwards, _) = seen[size]
    print(f"size={size}: flow of {shape[0]} x {shape[1]}, score {sideways} sideways, {upwards} upwards")
(plain, turned) = seen[None], seen[HEIGHT // 2]
as_they_are = plain[0][1] == (HEIGHT, WIDTH) and abs(plain[0][0] / plain[1][0] - 1) < 0.2
squeezed = turned[0][1] == (WIDTH // 2, HEIGHT // 2) and turned[1][0] > 2 * turned[0][0]
sys.exit(0 if as_they_are and squeezed else 1)
PY
