"""The clips of one shard become files: each source is opened once and read forward."""

import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import groupby

import pyarrow as pa

from mimir_ray.curation.config import CurationConfig
from mimir_ray.curation.export.folder import EXPORTS, exports_table, file_of, remove, there
from mimir_ray.curation.tables import outcome_table, rows_of
from mimir_ray.curation.watch import GRACE_S
from mimir_ray.dataflow import Row
from mimir_ray.storage import LatestCopy, Table, join, upload, why_other
from mimir_ray.video import Timing, VideoError, allowed_s, make_clip

logger = logging.getLogger(__name__)

SAVED_EVERY_S = 10.0
"""A killed export makes the files of this long again, once per core."""
_UNWRITTEN = "was not written yet: run the same command again"


def unfinished(shard: str, out: str, folder: str) -> bool:
    """Whether the files of a shard are not exactly those of its clips."""
    exports = exports_table(folder)
    if not exports.has(shard):
        return True
    rows = _known(exports, [shard])
    written = {row["file"] for row in rows if row["status"] == "ok"}
    wanted = {clip["file"] for clip in _kept(out, shard)}
    return len(written) < len(rows) or written != wanted or there(folder, written) != wanted


def export_shard(row: Row, out: str, folder: str, config: CurationConfig) -> Row:
    """Write the files of a shard that are not there; safe to repeat.

    What its `predecessors` have written of its clips counts as its own.
    """
    shard, exports = row["shard"], exports_table(folder)
    clips, own = _kept(out, shard), _known(exports, [shard])
    remove(folder, {known["file"] for known in own} - {clip["file"] for clip in clips})
    made = {known["file"]: known for known in (*_known(exports, row["predecessors"]), *own) if known["status"] == "ok"}
    whole = there(folder, [clip["file"] for clip in clips if clip["file"] in made])
    rows = {clip["file"]: made[clip["file"]] if clip["file"] in whole else _failed(clip, _UNWRITTEN) for clip in clips}
    saved_s = _save(exports, shard, rows)
    copies = LatestCopy()
    for path, members in groupby((clip for clip in clips if clip["file"] not in whole), _path):
        problem = None
        for clip in members:
            if problem is None:
                problem = _changed(copies, clip)
            rows[clip["file"]] = _failed(clip, problem) if problem else _export(copies.of(path), clip, folder, config)
            if time.monotonic() > saved_s + SAVED_EVERY_S:
                saved_s = _save(exports, shard, rows)
    _save(exports, shard, rows)
    return {"shard": shard}


def _export(source: str, clip: Row, folder: str, config: CurationConfig) -> Row:
    """Write one clip, if that can be done; its row."""
    timeout_s = allowed_s(GRACE_S, clip["end_s"], config.limits.seconds_per_second)
    span = clip["first_frame"], clip["first_frame"] + clip["frames"]
    timing = Timing(**{name: clip[name] for name in ("start_s", "times_s", "duration_s", "fps")})
    how = config.export
    try:
        with tempfile.TemporaryDirectory(prefix="mimir-export-") as scratch:
            file = os.path.join(scratch, "clip.mp4")
            cut = make_clip(source, file, span, timing, mode=how.mode, crf=how.crf, timeout_s=timeout_s)
            upload(file, join(folder, clip["file"]))
    except Exception as error:
        return _failed(clip, _why(clip, error))
    made = "copied" if cut.copied else "encoded"
    return {"clip_id": clip["clip_id"], "file": clip["file"], "made": made, "status": "ok", "reason": ""}


def _changed(copies: LatestCopy, clip: Row) -> str:
    """Why the source of a clip is not the one that it was found in, or empty."""
    uri, size_bytes = clip["path"], clip["size_bytes"]
    try:
        return why_other(uri, size_bytes) or why_other(uri, size_bytes, clip["video_id"], copies.of(uri))
    except Exception as error:
        return _why(clip, error)


def _why(clip: Row, error: Exception) -> str:
    if isinstance(error, VideoError):
        return f"{clip['path']}: {error}"
    logger.error("%s: export failed", clip["path"], exc_info=error)
    return f"{clip['path']}: {type(error).__name__}: {error}"


def _failed(clip: Row, why: str) -> Row:
    row = {"clip_id": clip["clip_id"], "file": clip["file"], "made": None}
    return row | {"status": "quarantined", "reason": why}


def _kept(out: str, shard: str) -> list[Row]:
    """The clips of a shard that were kept, by source and forward in each, with the names of their files."""
    rows = [
        row | {"file": file_of(row)} for row in rows_of(outcome_table(out, "clips"), shard) if row["status"] == "ok"
    ]
    return sorted(rows, key=lambda row: (row["path"], row["first_frame"]))


def _known(exports: Table, shards: Sequence[str]) -> list[Row]:
    """What the table has of these shards."""
    return [row for shard in shards if exports.has(shard) for row in exports.read(shard).to_pylist()]


def _save(exports: Table, shard: str, rows: Mapping[str, Row]) -> float:
    """Commit the rows as they are; when that was, by the monotonic clock."""
    exports.commit(shard, pa.Table.from_pylist(list(rows.values()), EXPORTS))
    return time.monotonic()


def _path(clip: Row) -> str:
    return str(clip["path"])
