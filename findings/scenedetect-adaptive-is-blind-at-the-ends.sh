#!/usr/bin/env bash
# PySceneDetect 0.7.2: AdaptiveDetector sees no cut after the first frame of a video, and none before its last two, at its
# defaults but for the least length of a scene, which is set to nothing. ContentDetector sees all of them.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --root-user-action ignore --target "$folder" "scenedetect-headless==0.7.2" "opencv-python-headless" "numpy<3"
PYTHONPATH=$folder python3 - <<'PY'
import numpy as np
import scenedetect
from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode

def cuts(detector, lengths):
    random, number, found = np.random.default_rng(0), 0, []
    for length in lengths:
        picture = random.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        for _ in range(length):
            found += detector.process_frame(FrameTimecode(number, fps=25.0), picture)
            number += 1
    return sorted({cut.frame_num for cut in [*found, *detector.post_process(FrameTimecode(number - 1, fps=25.0))]})

found = {}
for lengths in ([1, 40], [2, 40], [40, 1], [40, 2], [40, 40]):
    adaptive, content = (cuts(kind(min_scene_len=0), lengths) for kind in (AdaptiveDetector, ContentDetector))
    found[tuple(lengths)] = adaptive, content
    print(f"shots of {lengths} frames: adaptive {adaptive}, content {content}")
print(scenedetect.__version__)
blind = all(not found[lengths][0] and found[lengths][1] for lengths in ((1, 40), (40, 1), (40, 2)))
raise SystemExit(0 if blind and found[40, 40][0] == [40] else 1)
PY
