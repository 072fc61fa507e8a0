"""`export_clips`: the clips that a finished curation kept, written to a folder on Ray Data."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from mimir_ray.config import Config, UserError
from mimir_ray.curation.config import CurationConfig, Export
from mimir_ray.curation.export.apart import lies_in
from mimir_ray.curation.export.folder import CAPTIONS_FILE, exports_table, remove
from mimir_ray.curation.export.shard import export_shard, unfinished
from mimir_ray.curation.tables import outcome_table
from mimir_ray.dataflow import Row, map_tasks, run_shards
from mimir_ray.room import Need, room
from mimir_ray.storage import Table, absolute, ahead, exists, find_predecessors, join, upload

if TYPE_CHECKING:
    from ray.data import Dataset


class ExportKey(Config):
    """What decides the files of a folder."""

    data: str
    """The data root; nothing where that holds the folder, since both are moved together then."""
    export: Export


class ExportSummary(Config):
    """What became of the clips that were kept."""

    folder: str
    copied: int
    encoded: int
    failed: dict[str, int]
    """The clips that failed by their reason, with the path of the source; most frequent first."""

    @property
    def line(self) -> str:
        """All of it, for people."""
        done, failed = self.copied + self.encoded, sum(self.failed.values())
        how = f"{self.copied:,} copied, {self.encoded:,} encoded, {failed:,} failed"
        return f"exported {done:,} clips to {self.folder}: {how}"


def export_clips(
    out: str,
    folder: str,
    config: CurationConfig,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExportSummary:
    """Write the clips that a finished curation under `out` kept to `folder`, and their captions.

    Files that are there stay; those of clips that are no longer kept go. What failed is tried again. A folder that was
    filled in another way, or from another data root, is refused unless `overwrite` says that its files may go.

    Raises UserError for a folder that the user can mend, RuntimeError when shards were lost because their workers died.
    """
    clips, folder = outcome_table(out, "clips"), absolute(folder)
    key = ExportKey(data="" if lies_in(folder, out) else absolute(out), export=config.export)
    exports, shards = _opened(folder, key, overwrite), clips.shards()
    predecessors = find_predecessors(shards, exports.shards())
    to_do = ahead(partial(unfinished, out=out, folder=folder), shards)
    pending = [shard for shard, is_pending in zip(shards, to_do, strict=True) if is_pending]
    if pending:
        exports.reopen()
        dataset = pipeline({shard: predecessors[shard] for shard in pending}, out, folder, config)
        with room("export", [Need("curation", cpus=config.cpus_per_task, fields=("", "cpus_per_task", ""))]):
            for _ in run_shards(dataset, "export", len(shards) - len(pending), len(shards), progress):
                pass  # what was written is in the table
    if lost := exports.pending(shards):
        raise RuntimeError(
            f"{len(lost)} of {len(shards)} shards were not exported: their workers died (out of memory, a lost node) "
            f"or could not write to {folder}, and Ray's log says which; run again to retry"
        )
    _drop_gone(folder, exports, predecessors)
    _write_captions(out, folder, shards)
    exports.finish(clips.count(["status"])[("ok",)])
    counts = exports.count(["made", "reason"])
    failed = {reason: rows for (made, reason), rows in counts.most_common() if not made}
    return ExportSummary(folder=folder, copied=counts["copied", ""], encoded=counts["encoded", ""], failed=failed)


def pipeline(predecessors: Mapping[str, Sequence[str]], out: str, folder: str, config: CurationConfig) -> "Dataset":
    """A row a shard, each with the `predecessors` that its clips may have been exported from, through one task."""
    import ray.data

    rows: list[Row] = [{"shard": shard, "predecessors": list(others)} for shard, others in predecessors.items()]
    dataset: Dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    work = partial(export_shard, out=out, folder=folder, config=config)
    dataset = map_tasks(dataset, "export", work, num_cpus=config.cpus_per_task, max_retries=config.max_retries)
    dataset.context.max_errored_blocks = -1  # a lost shard is reported when all others are done
    return dataset


def _opened(folder: str, key: ExportKey, overwrite: bool) -> Table:
    """The table of a folder, begun. Raises UserError for a folder that others, or other settings, have filled."""
    exports, captions = exports_table(folder), join(folder, CAPTIONS_FILE)
    if exists(captions) and not exists(exports.uri):
        raise UserError(f"{captions} is there and no export wrote it; move it away or name another folder to export to")
    try:
        exports.begin(key)
    except UserError as error:
        if not overwrite:
            raise UserError(f"the export cannot go on in {folder}, name another folder or: {error}") from None
        for shard in exports.shards():
            remove(folder, exports.read(shard, ["file"])["file"].to_pylist())
        exports.begin(key, overwrite)
    return exports


def _drop_gone(folder: str, exports: Table, predecessors: Mapping[str, Sequence[str]]) -> None:
    """Remove the shards that others have taken the place of, and those of their files that no clip has any more."""
    gone = {shard: _files(exports, shard) for shard in sorted(set(exports.shards()) - set(predecessors))}
    for heir, others in predecessors.items():
        if left := [files for shard in others if (files := gone.get(shard))]:
            inherited = _files(exports, heir)
            for files in left:
                files -= inherited
    for shard, files in gone.items():
        remove(folder, files)
        exports.drop([shard])


def _files(exports: Table, shard: str) -> set[str]:
    return set(exports.read(shard, ["file"])["file"].to_pylist())


def _write_captions(out: str, folder: str, shards: Sequence[str]) -> None:
    """A line for each file that is there, in the order of their names within a shard."""
    exports, captions = exports_table(folder), outcome_table(out, "captions")
    with tempfile.TemporaryDirectory(prefix="mimir-export-") as scratch:
        listed = os.path.join(scratch, CAPTIONS_FILE)
        with open(listed, "w", encoding="utf-8", newline="\n") as lines:
            for rows, texts in zip(ahead(exports.read, shards), ahead(captions.read, shards), strict=True):
                said: dict[str, list[Row]] = {}
                for row in _ok(texts):
                    said.setdefault(row["clip_id"], []).append({"kind": row["kind"], "text": row["text"]})
                for row in sorted(_ok(rows), key=lambda row: str(row["file"])):
                    line = {"path": row["file"], "captions": said.get(row["clip_id"], [])}
                    lines.write(json.dumps(line, ensure_ascii=False) + "\n")
        upload(listed, join(folder, CAPTIONS_FILE))


def _ok(rows: pa.Table) -> list[Row]:
    found: list[Row] = rows.filter(pc.equal(rows["status"], "ok")).to_pylist()
    return found
