"""`curate`: from files to the `videos`, `clips` and `captions` tables, on Ray Data."""

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mimir_ray.curation.config import CurationConfig
from mimir_ray.curation.discover import Caption, SourceFile, discover, plan
from mimir_ray.curation.summary import CurationSummary, summarise
from mimir_ray.records import SCHEMAS
from mimir_ray.storage import Table, join

if TYPE_CHECKING:
    from ray.data import Dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tables:
    """The three tables under a data root. A shard is done when `clips`, which is committed last, has it."""

    videos: Table
    captions: Table
    clips: Table

    @classmethod
    def under(cls, out: str) -> "Tables":
        """The tables of the data root `out`."""
        return cls(*(Table(join(out, name)) for name in ("videos", "captions", "clips")))

    def in_order(self) -> tuple[Table, Table, Table]:
        """In the order in which a shard is committed."""
        return self.videos, self.captions, self.clips


def curate(
    sources: Sequence[str],
    out: str,
    config: CurationConfig,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CurationSummary:
    """Curate the videos that `sources` (folders, files, globs) name into the tables under the data root `out`.

    A run that was killed continues where it stopped, and a finished one is left alone, as long as the files and
    `config` are the same; changed or new files are curated and those that are gone are dropped. `progress` gets the
    shards done and their number. Raises UserError for sources or an `out` that the user can mend, RuntimeError when
    shards were lost because their workers died.
    """
    start = time.monotonic()
    files = discover(sources)
    shards = plan(files, config.files_per_shard)
    tables = Tables.under(out)
    for table in reversed(tables.in_order()):
        table.begin(config, overwrite)
        table.drop(set(table.shards()) - shards.keys())
    pending = tables.clips.pending(shards)
    logger.info("%d files in %d shards, %d to do", len(files), len(shards), len(pending))
    if pending:
        done = len(shards) - len(pending)
        for _ in pipeline({name: shards[name] for name in pending}, out, config).iter_rows():
            done += 1
            if progress:
                progress(done, len(shards))
    if lost := tables.clips.pending(shards):
        raise RuntimeError(
            f"{len(lost)} of {len(shards)} shards were lost because their workers died (out of memory, a lost node); "
            f"the others are committed: run again to retry. The first lost file is {shards[lost[0]][0].path}"
        )
    tables.clips.finish(len(files))
    tables.videos.finish(len(files))
    tables.captions.finish(sum(len(file.captions) for file in files))
    return summarise(tables.clips, len(shards) - len(pending), time.monotonic() - start)


def pipeline(shards: dict[str, list[SourceFile]], out: str, config: CurationConfig) -> "Dataset":
    """The whole of curation: one row a shard in, one row a shard out; what lies between goes straight to `out`."""
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    warnings.filterwarnings("ignore", "`ray_remote_args`", RayDeprecationWarning)  # nothing else bounds task retries
    dataset = ray.data.from_items(
        [{"shard": name, "files": [_pack(file) for file in files]} for name, files in shards.items()],
        override_num_blocks=len(shards),  # a task for each shard, so the work is even and a crash costs one shard
    ).map(  # 1 shard -> 1 row
        partial(curate_shard, out=out, config=config),
        num_cpus=config.cpus_per_task,
        max_retries=config.max_retries,
    )
    dataset.context.max_errored_blocks = -1  # a lost shard stays pending and is reported when all others are committed
    return dataset


def curate_shard(row: dict[str, Any], out: str, config: CurationConfig) -> dict[str, Any]:
    """Examine the files of one shard and commit their rows; returns counts by status. Safe to repeat."""
    from mimir_ray.curation.examine import examine

    examined = [examine(_unpack(file), config) for file in row["files"]]
    for table in Tables.under(out).in_order():
        rows = [item for file in examined for item in getattr(file, table.name)]
        table.commit(row["shard"], pa.Table.from_pylist(rows, SCHEMAS[table.name]))
    statuses = [clip["status"] for file in examined for clip in file.clips]
    return {"shard": row["shard"], **{status: statuses.count(status) for status in ("ok", "rejected", "quarantined")}}


def _pack(file: SourceFile) -> dict[str, Any]:
    captions = [{"kind": caption.kind, "text": caption.text} for caption in file.captions]
    return {"path": file.path, "size_bytes": file.size_bytes, "captions": captions, "problem": file.problem}


def _unpack(file: dict[str, Any]) -> SourceFile:
    captions = tuple(Caption(item["kind"], item["text"]) for item in file["captions"])
    return SourceFile(file["path"], file["size_bytes"], 0, captions, file["problem"])
