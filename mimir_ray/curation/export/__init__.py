"""Clips that were kept as mp4 files, for those who want files: a folder that curation reads like any other.

    <video>_<id>/<from>-<to>_<clip_id>.mp4    a clip, named by its video, its seconds there and its id
    captions.jsonl                            a line a clip, as curation reads it
    .exports/                                 what was written, by shards of `clips`: by this an export goes on

A file is written once and whole. Before a shard is worked on, the table says which files it is going to have: what is
not in it was not written here, and is never removed.
"""

from mimir_ray.curation.export.apart import require_apart
from mimir_ray.curation.export.run import ExportSummary, export_clips

__all__ = ["ExportSummary", "export_clips", "require_apart"]
