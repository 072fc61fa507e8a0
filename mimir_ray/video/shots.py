"""Where the shots of a video begin, by PySceneDetect's detectors.

It runs in the calling process, which a decoder may take down; `mimir_ray.video.read` runs it in a child.
"""

from typing import Any, Literal

from av.video.reformatter import VideoReformatter

from mimir_ray.video.decode import DECODE_ERRORS, as_stored, cut_off, damaged, fit, opened
from mimir_ray.video.probe import VideoInfo

Detector = Literal["content", "adaptive"]
"""`content` compares a frame with the one before it, `adaptive` that difference with those around it."""

SHORT_SIDE_PX = 144
ROUNDING_S = 1e-6  # times are floats: 1.3 - 0.7 may be less than 0.6


def find_shots(
    path: str,
    info: VideoInfo,
    *,
    detector: Detector,
    threshold: float,
    min_shot_s: float,
    short_side_px: int = SHORT_SIDE_PX,
) -> list[int]:
    """The frames at which shots begin, ascending; the first is 0.

    PySceneDetect's own thresholds are 27 for `content` (mean difference of HSV, 0 to 255) and 3 for `adaptive` (ratio).
    Frames are compared with a short side of at most `short_side_px`. A shot that would be shorter than `min_shot_s` is
    joined with the one after it, so only the last may be shorter. Raises VideoError; may crash, may hang.
    """
    from scenedetect import FrameTimecode

    judge = _judge(detector, threshold)
    width_px, height_px = as_stored(info, *fit(info, short_side_px))
    reformatter = VideoReformatter()
    shots, seen = [0], 0
    try:
        with opened(path) as (container, stream):
            for frame in container.decode(stream):
                picture = reformatter.reformat(frame, width_px, height_px, format="bgr24", threads=1)
                # The detectors hand the frame's number through: no rate is involved.
                for cut in judge.process_frame(FrameTimecode(seen, fps=1.0), picture.to_ndarray()):
                    if info.times_s[cut.frame_num] - info.times_s[shots[-1]] >= min_shot_s - ROUNDING_S:
                        shots.append(cut.frame_num)
                seen += 1
                if seen == info.frames:
                    return shots
    except DECODE_ERRORS as error:
        raise damaged(seen, info, error) from error
    raise cut_off(seen, info)


def _judge(detector: Detector, threshold: float) -> Any:
    """A detector that reports every cut: its own least length counts frames, which do not all last the same."""
    from scenedetect import AdaptiveDetector, ContentDetector

    if detector == "content":
        return ContentDetector(threshold=threshold, min_scene_len=0)
    return AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=0)
