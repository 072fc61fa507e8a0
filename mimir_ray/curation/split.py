"""One file becomes clips: probed, held against the limits, and cut where the shots change."""

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from mimir_ray.config import Config
from mimir_ray.curation.config import CurationConfig, Limits, Split
from mimir_ray.curation.sources import SourceFile, captions_of_source
from mimir_ray.curation.tables import Row
from mimir_ray.storage import content_id, file_id, join, local_copy, upload
from mimir_ray.video import VideoError, VideoInfo, cut_clip, read_info, read_shots

logger = logging.getLogger(__name__)

Span = tuple[int, int]
"""First frame of a clip, and the first one after it."""


class SplitKey(Config):
    """What decides the rows of `videos` and of the `split` stage."""

    limits: Limits
    split: Split | Literal["off"]


def split_files(files: Sequence[SourceFile], config: CurationConfig, media: str) -> tuple[list[Row], list[Row]]:
    """Rows of `videos`, one a file, and of the `split` stage, one a clip.

    A file whose bytes another one before it had is rejected as its duplicate; all that could be duplicates of each
    other lie in one shard. Clips that are not a whole file are written under `media`.
    """
    videos: list[Row] = []
    clips: list[Row] = []
    first: dict[str, str] = {}
    for file in files:
        video, cut = split_file(file, config, media, first)
        videos.append(video)
        clips.extend(cut)
    return videos, clips


def split_file(file: SourceFile, config: CurationConfig, media: str, first: dict[str, str]) -> tuple[Row, list[Row]]:
    """The row of a file and those of its clips; of one that cannot be processed or is a duplicate, why and no clip.

    `first` has the path of the first file with each content id, and is added to. Raises OSError where a clip cannot be
    written under `media`: that is no fault of the file's, and must not be remembered as one.
    """
    stage, began_s = "open", time.perf_counter()
    video: Row = {"video_id": content_id("path", file.path), "path": file.path, "size_bytes": max(file.size_bytes, 0)}
    video["rule"] = ""
    try:
        if file.problem:
            raise VideoError(file.problem)
        check_size(file.size_bytes, config.limits)
        with local_copy(file.path) as path:
            stage = "probe"
            info = read_info(path, timeout_s=config.limits.probe_timeout_s)
            video |= facts(info) | {"codec": info.codec, "rotation_deg": info.rotation_deg}
            check_limits(info, config.limits)
            video["video_id"] = file_id(path)
            original = first.setdefault(video["video_id"], file.path)
            if original != file.path:
                reason = f"has the same bytes as {original}"
                return video | {"clips": 0, "status": "rejected", "rule": "duplicate", "reason": reason}, []
            stage = "split"
            clips = list(_clips(path, file, video["video_id"], info, config.split, media))
    except _UnwrittenError as error:
        raise OSError(str(error)) from error
    except Exception as error:
        return video | {"clips": 0} | failure(stage, error, file.path), []
    for clip in clips[:1]:
        clip["seconds"] = time.perf_counter() - began_s
    return video | {"clips": len(clips), "status": "ok", "reason": ""}, clips


class _UnwrittenError(Exception):
    """A clip's file could not be written."""


def check_size(size_bytes: int, limits: Limits) -> None:
    """Raise VideoError for a file that is too large to be tried."""
    if size_bytes > limits.max_file_bytes:
        raise VideoError(
            f"has {size_bytes:,} bytes, at most {limits.max_file_bytes:,} are taken (limits.max_file_bytes)"
        )


def check_limits(info: VideoInfo, limits: Limits) -> None:
    """Raise VideoError for a video that is too large to be worked on."""
    pixels = info.width_px * info.height_px
    for what, value, limit in (
        (f"frames of {info.width_px}x{info.height_px} = {pixels:,} pixels", pixels, "max_pixels"),
        (f"{info.duration_s:.1f} s", info.duration_s, "max_duration_s"),
        (f"{info.frames:,} frames", info.frames, "max_frames"),
    ):
        if value > getattr(limits, limit):
            raise VideoError(f"has {what}, at most {getattr(limits, limit):,} are taken (limits.{limit})")


def spans(shots: Sequence[int], info: VideoInfo, split: Split) -> list[Span]:
    """Clips of a video whose shots begin at these frames: long shots in pieces, short ones left out."""
    found: list[Span] = []
    times_s = [*info.times_s, info.duration_s]
    for first, end in pairwise([*shots, info.frames]):
        start = first
        while start < end:
            rest_s = times_s[end] - times_s[start]
            if rest_s < split.min_clip_s:
                break
            if rest_s <= split.max_clip_s + split.min_clip_s:  # no rest too short to be a clip
                found.append((start, end))
                break
            found.append((start, _frame_at(times_s, start, end, times_s[start] + split.max_clip_s)))
            start = max(start + 1, _frame_at(times_s, start, end, times_s[start] + split.stride_s))
    return found


def _frame_at(times_s: Sequence[float], start: int, end: int, time_s: float) -> int:
    """The first frame of start + 1 to end that is not shown before `time_s`."""
    return next((index for index in range(start + 1, end) if times_s[index] >= time_s - 1e-6), end)


def _clips(
    path: str, file: SourceFile, video_id: str, info: VideoInfo, split: Split | Literal["off"], media: str
) -> Iterator[Row]:
    if split == "off":
        wanted = [(0, info.frames)]
    else:
        limit_s = 60 + split.seconds_per_second * info.duration_s
        shots = read_shots(path, detector=split.detector, threshold=split.threshold, min_shot_s=0.0, timeout_s=limit_s)
        wanted = spans(shots, info, split)
    for span in wanted:
        if span == (0, info.frames):
            yield _row(file, video_id, 0.0, info.duration_s) | {"path": file.path} | facts(info)
        elif split != "off":
            yield _cut(path, file, video_id, info, span, split, media)


def _cut(path: str, file: SourceFile, video_id: str, info: VideoInfo, span: Span, split: Split, media: str) -> Row:
    """Write a clip's file and give its row. Where packets are copied the clip may be shorter than `span`."""
    times_s = [*info.times_s, info.duration_s]
    limit_s = 60 + split.seconds_per_second * info.duration_s
    begin, end = span
    with tempfile.TemporaryDirectory(prefix="mimir-") as folder:
        made = os.path.join(folder, "clip.mp4")
        try:
            begin, end = cut_clip(path, made, begin, end, mode=split.mode, crf=split.crf, timeout_s=limit_s)
            outcome = facts(read_info(made, timeout_s=limit_s))
        except VideoError as error:
            row = _row(file, video_id, times_s[begin], times_s[end])
            return row | {"path": file.path} | failure("split", error, file.path)
        row = _row(file, video_id, times_s[begin], times_s[end])
        target = join(media, video_id, f"{row['clip_id']}.mp4")
        try:
            upload(made, target)
        except OSError as error:
            raise _UnwrittenError(f"{target} cannot be written: {error}; make room or choose another --out") from error
    return row | {"path": target} | outcome


def _row(file: SourceFile, video_id: str, start_s: float, end_s: float) -> Row:
    captions = [{"kind": caption.kind, "text": caption.text} for caption in captions_of_source(file)]
    clip_id = content_id(video_id, f"{start_s:.6f}-{end_s:.6f}")
    identity = {"clip_id": clip_id, "video_id": video_id, "start_s": start_s, "end_s": end_s}
    return identity | {"captions": captions, "status": "ok", "reason": ""}


def facts(info: VideoInfo) -> Row:
    """What the container says, as columns of `videos` and `clips`."""
    return {name: getattr(info, name) for name in ("width_px", "height_px", "fps", "frames", "duration_s")}


def failure(stage: str, error: Exception, path: str) -> Row:
    """The columns of a row that could not be processed, and why."""
    if isinstance(error, VideoError):
        reason = f"{stage}: {error}"
    else:
        logger.error("%s: %s failed", path, stage, exc_info=error)
        reason = f"{stage}: {type(error).__name__}: {error}"[:500]
    return {"status": "quarantined", "reason": reason, "stage": stage, "error": type(error).__name__}
