"""One file through every step: probe, decode once, score, judge. Rows come out, whatever happens."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import cv2

from mimir_ray.curation.config import CurationConfig
from mimir_ray.curation.discover import SourceFile
from mimir_ray.curation.metrics import Grey, Sampling, Scores, grey, sample, score
from mimir_ray.curation.rules import ClipFacts, shortfalls
from mimir_ray.records import Status
from mimir_ray.storage import content_id, file_id
from mimir_ray.video import VideoError, VideoInfo, read_frames, read_info

logger = logging.getLogger(__name__)

Row = dict[str, Any]
FRAMES_PER_READ = 64
"""Frames turn grey in pieces of this many, so that RGB of a whole clip is never held."""


@dataclass(frozen=True)
class Examined:
    """The rows of one file, by table. `clips` always has one at least, so it accounts for every input."""

    videos: list[Row]
    clips: list[Row]
    captions: list[Row]


@dataclass(frozen=True)
class _Outcome:
    status: Status
    reason: str = ""
    rule: str = ""


def examine(file: SourceFile, config: CurationConfig) -> Examined:
    """Curate one file. A file that cannot be processed is quarantined with the stage and the error."""
    cv2.setNumThreads(1)  # there is a task for every core
    stage, info, decoder, scores = "open", None, "", None
    video_id = content_id("path", file.path)
    try:
        if file.problem:
            raise VideoError(file.problem)
        stage = "probe"
        info = read_info(file.path, timeout_s=config.decode_timeout_s)
        video_id = file_id(file.path)
        stage = "decode"
        scores, decoder = measure(file.path, info, config)
        clip = ClipFacts(
            frames=info.frames, duration_s=info.duration_s, width_px=info.width_px, height_px=info.height_px
        )
        missed = shortfalls(clip, scores, config)
        outcome = _Outcome("rejected", missed[0].reason, missed[0].rule) if missed else _Outcome("ok")
    except VideoError as error:
        outcome = _Outcome("quarantined", f"{stage}: {error}")
    except Exception as error:
        logger.exception("%s: %s failed", file.path, stage)
        outcome = _Outcome("quarantined", f"{stage}: {type(error).__name__}: {error}"[:500])
    return _rows(file, video_id, info, decoder, scores, outcome)


def measure(path: str, info: VideoInfo, config: CurationConfig) -> tuple[Scores, str]:
    """Scores of a clip and the decoder that read it. Every frame is decoded once and shared by the measures."""
    sampling = sample(info.times_s, config.measures)
    frames, decoders = _grey_frames(path, sampling, config)
    return score(frames, sampling, config.measures), "+".join(sorted(decoders))


def _grey_frames(path: str, sampling: Sampling, config: CurationConfig) -> tuple[dict[int, Grey], set[str]]:
    frames: dict[int, Grey] = {}
    decoders: set[str] = set()
    for indices in _pieces(sampling.indices):
        read = read_frames(
            path, indices, timeout_s=config.decode_timeout_s, short_side_px=config.measures.short_side_px
        )
        frames.update(zip(indices, grey(read.frames), strict=True))
        decoders.add(read.decoder)
    return frames, decoders


def _pieces(indices: list[int]) -> Iterable[list[int]]:
    count = -(-len(indices) // (2 * FRAMES_PER_READ))  # a clip of 65 frames is read at once
    size = -(-len(indices) // count)
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _rows(
    file: SourceFile, video_id: str, info: VideoInfo | None, decoder: str, scores: Scores | None, outcome: _Outcome
) -> Examined:
    """The whole video is one clip."""
    verdict = {"status": outcome.status, "reason": outcome.reason}
    end_s = info.duration_s if info else None
    clip_id = content_id(video_id, f"0.000000-{end_s:.6f}") if end_s is not None else content_id(video_id)
    shown = ("width_px", "height_px", "fps", "frames", "duration_s")
    facts = {name: getattr(info, name, None) for name in shown}
    video = facts | {name: getattr(info, name, None) for name in ("codec", "rotation_deg")}
    unread = {"status": "ok", "reason": ""} if info else verdict
    measured = asdict(scores) if scores else dict.fromkeys(Scores.__annotations__)
    size_bytes = max(file.size_bytes, 0)
    span = {"start_s": 0.0 if info else None, "end_s": end_s, "decoder": decoder, "rule": outcome.rule}
    identity = {"clip_id": clip_id, "video_id": video_id, "path": file.path}
    return Examined(
        videos=[{"video_id": video_id, "path": file.path, "size_bytes": size_bytes} | video | unread],
        clips=[identity | facts | span | measured | verdict],
        captions=[{"clip_id": clip_id, "kind": c.kind, "text": c.text} | verdict for c in file.captions],
    )
