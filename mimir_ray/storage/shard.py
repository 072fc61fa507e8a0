"""One shard as a Parquet file from which a few rows can be read alone.

Rows lie in groups of about ``GROUP_BYTES``, so that a reader who wants one row of a shard of hundreds of MB reads that
much. What names the rows (ids, kinds, texts, statuses: every column without binary data) would then be strewn over the
whole file, a request to an object store each. So the footer holds those columns once more, together.
"""

import base64
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pat

from mimir_ray.storage.files import filesystem

GROUP_BYTES = 4 * 2**20
"""Uncompressed size that a group of rows aims at; a larger row is a group of its own."""
_SMALL = b"mimir_ray.small_columns"
_STAMP = b"mimir_ray.stamp"


def encode_shard(rows: pa.Table, stamp: str = "") -> pa.Buffer:
    """The bytes of a Parquet file that holds ``rows``, and a ``stamp`` that says what made them."""
    light = [field.name for field in rows.schema if not _holds_binary(field.type)]
    group = max(1, GROUP_BYTES * rows.num_rows // max(1, rows.nbytes))
    sink = pa.BufferOutputStream()
    # Statistics and dictionaries of arrays would be arrays again; nobody looks for a row by its first bytes. The lower
    # half of a bfloat16 is noise: zstd saves a fifth of such arrays, and to undo it is a quarter of making a batch.
    with pq.ParquetWriter(
        sink,
        rows.schema,
        compression={
            path: "none" if _is_binary(kind) else "zstd"
            for field in rows.schema
            for path, kind in _leaves(field.name, field.type)
        },
        use_dictionary=[name for name in light if not rows.schema.field(name).type.num_fields],
        write_statistics=False,
    ) as writer:
        writer.write_table(rows, row_group_size=group)
        if rows.num_rows > group and len(light) < rows.num_columns:
            writer.add_key_value_metadata({_SMALL: base64.b64encode(_to_ipc(rows.select(light)))})
        if stamp:
            writer.add_key_value_metadata({_STAMP: stamp.encode()})
    return sink.getvalue()


class Shard:
    """A committed shard. Opening one reads its footer; every method may be called from several threads at once."""

    def __init__(self, uri: str) -> None:
        """Raises FileNotFoundError, and OSError or ArrowException where it is no Parquet file."""
        self._system, self._path = filesystem(uri)
        with self._system.open_input_file(self._path) as source:
            self._footer = pq.read_metadata(source)

    @property
    def stamp(self) -> str:
        """What it was marked with; empty where with nothing."""
        stamp: bytes = (self._footer.metadata or {}).get(_STAMP, b"")
        return stamp.decode()

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Number of the first row of each group."""
        sizes = [self._footer.row_group(number).num_rows for number in range(self._footer.num_row_groups)]
        return tuple(accumulate([0, *sizes]))[:-1]

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows; of columns without binary data no more than the footer is read where it holds them."""
        small = (self._footer.metadata or {}).get(_SMALL)
        if columns is not None and small is not None:
            names = pa.ipc.open_stream(base64.b64decode(small)).read_all()
            if set(columns) <= set(names.column_names):
                return names.select(list(columns))
        with self._system.open_input_file(self._path) as source:
            rows = pq.read_table(source, columns=None if columns is None else list(columns))
        return rows.replace_schema_metadata(None)

    def take(self, rows: Sequence[int]) -> pa.Table:
        """Some rows, by ascending number; of groups without any of them nothing is read."""
        groups: dict[int, list[int]] = {}
        for row in rows:
            groups.setdefault(bisect_right(self.starts, row) - 1, []).append(row)
        columns = self._footer.schema.to_arrow_schema().names
        return pa.concat_tables(
            self.read_group(number, columns).take([row - self.starts[number] for row in members])
            for number, members in groups.items()
        )

    def read_group(self, number: int, columns: Sequence[str]) -> pa.Table:
        """One group of rows."""
        with self._system.open_input_file(self._path) as source:
            file = pq.ParquetFile(source, metadata=self._footer, pre_buffer=True)
            return file.read_row_group(number, list(columns), use_threads=False).replace_schema_metadata(None)


def _to_ipc(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, rows.schema, options=options) as stream:
        stream.write_table(rows)
    return sink.getvalue()


def _holds_binary(kind: pa.DataType) -> bool:
    return any(_is_binary(leaf) for _, leaf in _leaves("", kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pat.is_binary(kind) or pat.is_large_binary(kind))


def _leaves(path: str, kind: pa.DataType) -> list[tuple[str, pa.DataType]]:
    """Parquet's paths and types of what a column holds, itself if that is nothing else."""
    if pat.is_list(kind) or pat.is_large_list(kind):
        return _leaves(f"{path}.list.element", kind.value_type)
    if pat.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{path}.{field.name}", field.type)]
    return [(path, kind)]
