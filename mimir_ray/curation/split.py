"""A file becomes clips: watched once, held against the limits, and taken apart where its shots change.

A clip is a span of its file. Nothing is written but rows.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from mimir_ray.config import Config
from mimir_ray.curation.config import CurationConfig, Limits, Split
from mimir_ray.curation.sources import Caption, SourceFile, captions_of_source
from mimir_ray.curation.spans import KnownSpans, ShotSpans, Span, shot_spans
from mimir_ray.curation.watch import Watched, check_length, watch
from mimir_ray.dataflow import Row
from mimir_ray.storage import content_id, file_id, local_copy
from mimir_ray.video import Promise, ShotFinder, VideoError, VideoInfo, mean_fps
from mimir_ray.video.shots import ROUNDING_S
from mimir_ray.video.source import size_of_file

logger = logging.getLogger(__name__)


class SplitKey(Config):
    """What decides the rows of `videos` and of the `split` stage."""

    limits: Limits
    split: Split | Literal["off"]


@dataclass
class Outcome:
    """Rows of `videos`, one a file, of the `split` stage, one a clip, and of `measure`, one a clip that is ok."""

    videos: list[Row] = field(default_factory=list)
    clips: list[Row] = field(default_factory=list)
    scores: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Known:
    """Rows of `videos` and of `split` that were made of a file's bytes before."""

    video: Row
    clips: Sequence[Row]

    def suits(self, file: SourceFile, split: Split | Literal["off"]) -> bool:
        """Whether its clips are those that would be found: not those that a list gave, or gives now."""
        if file.spans:
            return False
        if split != "off":
            return self.video["shots"] is not None
        return [(clip["first_frame"], clip["frames"]) for clip in self.clips] == [(0, self.video["frames"])]


def split_files(
    files: Sequence[SourceFile], config: CurationConfig, known: Mapping[str, Known] | None = None
) -> Outcome:
    """Watch files one after another, but for those whose bytes are `known`.

    A file whose bytes another one before it had is rejected as its duplicate; all that could be duplicates of each
    other lie in one shard.
    """
    made = Outcome()
    first: dict[str, str] = {}
    for file in files:
        video, clips, scores = split_file(file, config, first, known or {})
        made.videos.append(video)
        made.clips += clips
        made.scores += scores
    return made


def split_file(
    file: SourceFile, config: CurationConfig, first: dict[str, str], known: Mapping[str, Known]
) -> tuple[Row, list[Row], list[Row]]:
    """The row of a file, those of its clips and of their scores; of one that cannot be processed or is a duplicate why,
    and no clip. `first` has the path of the first file with each content id, and is added to. Clips that are `known`
    come without scores.
    """
    stage, began_s = "open", time.perf_counter()
    video: Row = {"video_id": content_id("path", file.path), "path": file.path, "size_bytes": max(file.size_bytes, 0)}
    video |= {"rule": "", "clips": 0}
    try:
        if file.problem:
            raise VideoError(file.problem)
        check_size(file.size_bytes, config.limits)
        with local_copy(file.path) as path:
            stage = "probe"
            size_of_file(path)  # a pipe or a device has no end to be hashed to
            content = file_id(path)
            if content in first:
                reason = f"has the same bytes as {first[content]}"
                duplicate = {"video_id": content, "status": "rejected", "rule": "duplicate", "reason": reason}
                return video | duplicate, [], []
            if (before := known.get(content)) and before.suits(file, config.split):
                stage = "captions"
                texts = [asdict(caption) for caption in captions_of_source(file)]
                common, first[content] = {"path": file.path, "captions": texts}, file.path
                return before.video | {"path": file.path}, [clip | common for clip in before.clips], []

            def expect(promise: Promise) -> None:
                nonlocal stage
                stage = "split"
                video["video_id"] = content
                check_pixels(promise.width_px, promise.height_px, config.limits)
                check_length(promise.frames, promise.duration_s, config.limits)

            spans, finder = _looked_for(file, config.split)
            watched = watch(path, spans, finder, config, expect)
        stage = "captions"
        captions = captions_of_source(file)
        stage = "split"
        outcome, clips, scores = _found(file, video, watched, spans, config.split, captions)
    except Exception as error:
        return video | failure(stage, error, file.path), [], []
    first[content] = file.path
    for clip in clips[:1]:
        clip["seconds"] = time.perf_counter() - began_s
    return video | outcome, clips, scores


def check_size(size_bytes: int, limits: Limits) -> None:
    """Raise VideoError for a file that is too large to be tried."""
    if size_bytes > limits.max_file_bytes:
        raise VideoError(
            f"has {size_bytes:,} bytes, at most {limits.max_file_bytes:,} are taken (limits.max_file_bytes)"
        )


def check_pixels(width_px: int, height_px: int, limits: Limits) -> None:
    """Raise VideoError for frames that are too large to be worked on."""
    pixels = width_px * height_px
    if pixels > limits.max_pixels:
        raise VideoError(
            f"has frames of {width_px}x{height_px} = {pixels:,} pixels, at most {limits.max_pixels:,} are taken "
            "(limits.max_pixels)"
        )


def failure(stage: str, error: Exception, path: str) -> Row:
    """The columns of a row that could not be processed, and why."""
    if isinstance(error, VideoError):
        reason = f"{stage}: {error}"
    else:
        logger.error("%s: %s failed", path, stage, exc_info=error)
        reason = f"{stage}: {type(error).__name__}: {error}"[:500]
    return {"status": "quarantined", "reason": reason, "stage": stage, "error": type(error).__name__}


def _looked_for(file: SourceFile, split: Split | Literal["off"]) -> tuple[KnownSpans | ShotSpans, ShotFinder | None]:
    """Where clips of a file are to be found: in the spans that a list gives, else in its shots, else all over it."""
    if file.spans:
        return KnownSpans([(span.start_s, span.end_s) for span in file.spans], in_seconds=True), None
    if split == "off":
        return KnownSpans([(0, math.inf)], in_seconds=False), None
    return ShotSpans(split), ShotFinder(split.detector, split.threshold)


def _found(
    file: SourceFile,
    video: Row,
    watched: Watched,
    spans: KnownSpans | ShotSpans,
    split: Split | Literal["off"],
    captions: Sequence[Caption],
) -> tuple[Row, list[Row], list[Row]]:
    """What a pass found: columns of the file's row, and the rows of its clips and of their scores."""
    info = watched.info
    assert info is not None
    facts = {name: getattr(info, name) for name in ("codec", "stream", "frames", "rotation_deg", "mirrored")}
    facts |= {name: getattr(info, name) for name in ("pixel_aspect", "transfer")} | _facts(info)
    clips: dict[str, Row] = {}
    for clip in _clips(file, video, watched, info, split, spans):
        clips.setdefault(clip["clip_id"], clip)
        given = clip.pop("given") or captions
        told = clips[clip["clip_id"]].setdefault("captions", [])
        told += [text for text in map(asdict, given) if text not in told]
    scores = [_score(clip, watched) for clip in clips.values() if clip["status"] == "ok"]
    outcome = {"clips": len(clips), "status": "ok", "reason": ""} | _shots(watched, info, split, spans)
    return facts | outcome, list(clips.values()), scores


def _clips(
    file: SourceFile,
    video: Row,
    watched: Watched,
    info: VideoInfo,
    split: Split | Literal["off"],
    spans: KnownSpans | ShotSpans,
) -> Iterator[Row]:
    """Rows of the `split` stage, whose captions are those that its span was `given`."""
    common = {name: video[name] for name in ("video_id", "path")} | {"size_bytes": info.size_bytes}
    common |= {"hdr": info.hdr, "anamorphic": info.anamorphic, "rotated": info.rotated} | _facts(info)
    times_s = [*info.times_s, info.duration_s]
    found: Sequence[Span | None]
    if isinstance(spans, KnownSpans):
        found = spans.found(info.frames)
    else:
        assert split != "off"
        found = shot_spans([0, *watched.cuts], times_s, split)
    for place, span in enumerate(found):
        given: tuple[Caption, ...] = file.spans[place].captions if file.spans else ()
        if span is None:
            asked = file.spans[place]
            yield common | _missing(video["video_id"], asked.start_s, asked.end_s, info) | {"given": given}
        else:
            yield common | _clip(video["video_id"], span, times_s, info) | {"given": given}


def _clip(video_id: str, span: Span, times_s: Sequence[float], info: VideoInfo) -> Row:
    first, end = span
    start_s, end_s = times_s[first], times_s[end]
    return {
        "clip_id": _clip_id(video_id, start_s, end_s),
        "start_s": start_s,
        "end_s": end_s,
        "first_frame": first,
        "frames": end - first,
        "times_s": [time_s - start_s for time_s in times_s[first:end]],
        "duration_s": round(end_s - start_s, 9),  # times are floats: a second from 4.4 s on has less than one
        "fps": mean_fps(end - first, end_s - start_s, Fraction(info.fps)),
        "status": "ok",
        "reason": "",
    }


def _missing(video_id: str, start_s: float, end_s: float, info: VideoInfo) -> Row:
    """The row of a span in which no frame of the video begins."""
    asked = f"{start_s:g} to {end_s:g} s" if math.isfinite(end_s) else f"{start_s:g} s to the end"
    why = f"no frame begins in the span {asked} that the list gives; the video lasts {info.duration_s:.2f} s"
    return {
        "clip_id": _clip_id(video_id, start_s, end_s),
        "start_s": start_s,
        "end_s": end_s,
        "duration_s": None,
        "status": "quarantined",
        "reason": f"split: {why}: mend the list",
        "stage": "split",
        "error": "NoFrames",
    }


def _clip_id(video_id: str, start_s: float, end_s: float) -> str:
    return content_id(video_id, f"{start_s:.6f}-{end_s:.6f}")


def _score(clip: Row, watched: Watched) -> Row:
    """The row of `measure` for a clip; its time is counted with the pass."""
    first = clip["first_frame"]
    scores = asdict(watched.meter.scores(first, first + clip["frames"]))
    return {"clip_id": clip["clip_id"], "seconds": 0.0, "status": "ok", "reason": ""} | scores


def _facts(info: VideoInfo) -> Row:
    """Columns that `videos` and `clips` share and that are the same for both."""
    return {name: getattr(info, name) for name in ("width_px", "height_px", "fps", "duration_s", "interlaced")}


def _shots(watched: Watched, info: VideoInfo, split: Split | Literal["off"], spans: KnownSpans | ShotSpans) -> Row:
    """How many shots a video has, and how many are too short to be clips; the reason where all of them are."""
    if isinstance(spans, KnownSpans) or split == "off":
        return {}
    times_s = [*info.times_s, info.duration_s]
    bounds = [0, *watched.cuts, info.frames]
    lasting_s = [times_s[end] - times_s[first] for first, end in pairwise(bounds)]
    short = sum(lasts_s < split.min_clip_s - ROUNDING_S for lasts_s in lasting_s)
    row: Row = {"shots": len(lasting_s), "short_shots": short}
    if short == len(lasting_s):
        which = "its only shot" if short == 1 else f"the longest of its {short} shots"
        reason = f"{which} lasts {max(lasting_s):.2f} s, at least {split.min_clip_s:g} s are needed (split.min_clip_s)"
        row |= {"status": "rejected", "rule": "shot_length", "reason": reason}
    return row
