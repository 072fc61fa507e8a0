"""The tables of a curation under its data root, and how a shard's rows are put together from them.

    videos            a row a file: facts of its container, or why it could not be read
    stages/split      a row a clip: which span of its video it is, and its captions
    stages/<score>    a row a clip that was scored: the scores, or why there are none
    clips, captions   the outcome: everything above in one row a clip, with the verdict; a row a caption

All of them have the same shards. Of a shard, `clips` is committed last. Paths below the data root are stored relative
to it, so that it can be moved as a whole; the functions here take and give them as they are now.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from mimir_ray.dataflow import Row
from mimir_ray.records import SCHEMAS
from mimir_ray.storage import Table, below, join, located, parent

_CAPTION = pa.struct([("kind", pa.string()), ("text", pa.string())])
_SPAN = ("clip_id", "video_id", "path", "size_bytes", "start_s", "end_s", "first_frame", "frames", "times_s")
_FACTS = ("width_px", "height_px", "fps", "duration_s", "hdr", "interlaced", "anamorphic", "rotated")
_SECONDS = pa.field("seconds", pa.float64())
"""Wall time that a stage took over a clip; the pass over a video is counted with its first clip."""
_OUTCOME = pa.schema(
    [
        pa.field("stage", pa.string()),
        pa.field("error", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)

SPLIT_SCHEMA = pa.schema(
    [
        *(SCHEMAS["clips"].field(name) for name in (*_SPAN, *_FACTS)),
        pa.field("captions", pa.list_(_CAPTION)),
        _SECONDS,
        *_OUTCOME,
    ]
)


def _scores(*columns: str | pa.Field) -> pa.Schema:
    """Schema of the table of a stage that gives clips these scores: columns of `clips`, or others."""
    fields = (SCHEMAS["clips"].field(column) if isinstance(column, str) else column for column in columns)
    return pa.schema([SCHEMAS["clips"].field("clip_id"), *fields, _SECONDS, *_OUTCOME])


SCORES: dict[str, pa.Schema] = {
    "measure": _scores("motion", "black_area", "brightness", "black_frame_rate"),
    "aesthetic": _scores("aesthetic_mean", "aesthetic_min"),
    "text_area": _scores("text_area"),
    "watermark": _scores("watermark", "watermark_margin", "watermark_certainty"),
    "recaption": _scores(pa.field("recaption", pa.string()), pa.field("recaption_tokens", pa.int64())),
    "agreement": _scores(pa.field("caption_scores", pa.list_(pa.float64()))),
}
"""Schemas of the tables of the scoring stages."""

ClipScorer = Callable[[Sequence[Row]], list[Row]]
"""From rows of clips to the columns of their scores, or of why there are none. What it raises puts a clip into
quarantine, alone."""

STAGE_VERSIONS = {
    "split": 3,
    "measure": 3,
    "aesthetic": 3,
    "text_area": 3,
    "watermark": 3,
    "recaption": 3,
    "agreement": 3,
}
"""The schema versions of the stages' tables, each by itself, as `records.VERSIONS` has those of the others."""


def outcome_table(out: str, name: str) -> Table:
    """`videos`, `clips` or `captions` under the data root `out`."""
    return Table(join(out, name))


def stage_table(out: str, stage: str) -> Table:
    """The table of one stage."""
    schema = SPLIT_SCHEMA if stage == "split" else SCORES[stage]
    return Table(join(out, "stages", stage), schema, STAGE_VERSIONS[stage])


def _root(table: Table) -> str:
    """The data root of a table: the inverse of the two above."""
    folder = parent(table.uri)[0]
    return parent(folder)[0] if table.name in STAGE_VERSIONS else folder


def known_clips(out: str, shard: str, stages: Iterable[str]) -> list[Row]:
    """The clips of a shard with all that these stages have found out, in the order in which they lie in their videos.

    A clip that a stage could not process has the first such stage's status, reason, `stage` and `error`.
    """
    clips: dict[str, Row] = {row["clip_id"]: row for row in rows_of(stage_table(out, "split"), shard)}
    for stage in stages:
        for row in rows_of(stage_table(out, stage), shard):
            if clip := clips.get(row["clip_id"]):
                outcome = {} if clip["status"] == "ok" else {name: clip[name] for name in _OUTCOME.names}
                clip.update(row | outcome)
    return list(clips.values())


def rows_of(table: Table, shard: str) -> list[Row]:
    """The rows of a committed shard."""
    rows: list[Row] = _located(table, table.read(shard)).to_pylist()
    return rows


def scan(table: Table, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The committed shards in the order of their names."""
    return (_located(table, rows) for rows in table.scan(columns))


def commit(table: Table, shard: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Commit rows whose missing columns are null."""
    assert table.schema is not None
    root = _root(table)
    filled: list[Row] = [{name: row.get(name) for name in table.schema.names} for row in rows]
    for row in filled:
        if row.get("path"):
            row["path"] = below(root, row["path"])
    table.commit(shard, pa.Table.from_pylist(filled, table.schema))


def _located(table: Table, rows: pa.Table) -> pa.Table:
    if "path" not in rows.column_names:
        return rows
    root = _root(table)
    paths = [path and located(root, path) for path in rows["path"].to_pylist()]
    return rows.set_column(rows.column_names.index("path"), "path", pa.array(paths, pa.string()))
