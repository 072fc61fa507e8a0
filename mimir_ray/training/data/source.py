"""Where the rows that a run trains on come from: a protocol, and the tables on disk that are its default."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from mimir_ray.config import UserError
from mimir_ray.records import VERSIONS
from mimir_ray.storage import READERS, Table, content_id, join

_CLIP = ["clip_id"]
_CAPTION = ["clip_id", "kind", "text"]


class Rows(Protocol):
    """A shard of one table, whose methods may be called from several threads at once."""

    @property
    def starts(self) -> Sequence[int]:
        """Number of the first row of each group of rows."""
        ...

    def read(self, columns: Sequence[str]) -> pa.Table:
        """All rows."""
        ...

    def read_group(self, number: int, columns: Sequence[str]) -> pa.Table:
        """The rows of one group."""
        ...


class TableSource(Protocol):
    """Shards of ``latents``, ``t5_tokens`` and, for a model with an LLM, ``llm_tokens``. It is sent to every worker."""

    def check(self, tables: Sequence[str]) -> dict[str, str]:
        """Fingerprint of what each table was made with. Raises UserError where one cannot be trained on."""
        ...

    def shards(self) -> list[str]:
        """Names of the shards, which every table has."""
        ...

    def open(self, table: str, shard: str) -> Rows:
        """One shard. Raises UserError where it cannot be read."""
        ...


@dataclass(frozen=True)
class StoredTables:
    """The tables of a data root."""

    root: str

    def check(self, tables: Sequence[str]) -> dict[str, str]:
        """Raises UserError for a table that is missing or unfinished, or that holds other rows than curation keeps."""
        again = f"run `mimir precompute` on {self.root} to its end"
        fingerprints = {}
        for name in tables:
            table = self._table(name)
            manifest = table.manifest()
            if manifest is None:
                count = len(table.shards())
                state = f"has {count} shards but is not finished" if count else "does not exist"
                raise UserError(f"the table {table.uri} {state}; {again}")
            fingerprints[name] = manifest.fingerprint
        self._refuse_stale()
        shards = self.shards()
        for name in tables:
            if lacking := set(shards) - set(self._table(name).shards()):
                uri = self._table(name).uri
                raise UserError(f"{uri} lacks {len(lacking)} of the {len(shards)} shards of latents; {again}")
        return fingerprints

    def shards(self) -> list[str]:
        return self._table("latents").shards()

    def open(self, table: str, shard: str) -> Rows:
        return _StoredRows(self._table(table), shard)

    def _table(self, name: str) -> Table:
        return Table(join(self.root, name))

    def _refuse_stale(self) -> None:
        """Raises UserError where curation, if it is finished here, keeps other clips or captions than were encoded."""
        clips, captions, latents = (self._table(name).manifest() for name in ("clips", "captions", "latents"))
        if clips is None or latents is None:
            return
        if latents.schema_version != VERSIONS["latents"]:
            held = {"clips": clips, "captions": captions}
            old = any(table and table.schema_version != VERSIONS[name] for name, table in held.items())
            first = f"`mimir curate SOURCE --out {self.root} --overwrite` and then " if old else ""
            raise UserError(
                f"the latents under {self.root} are of version {latents.schema_version}, from frames that another "
                f"mimir read, and this one trains on version {VERSIONS['latents']}: run {first}"
                "`mimir precompute --overwrite`"
            )
        again = "was curated again since precompute; run `mimir precompute` on it, which encodes what is new"
        if clips.ok != latents.inputs:
            raise UserError(f"{self.root} keeps {clips.ok} clips and {latents.inputs} were encoded: it {again}")
        if captions is None:
            return
        kept = self._total(self._kept, "clips")
        encoded = self._total(self._encoded, "latents")
        for number, what in enumerate(("clips", "captions")):
            if kept[number] != encoded[number]:
                raise UserError(f"the {what} that {self.root} keeps are not those that were encoded: it {again}")

    def _total(self, ids: Callable[[str], tuple[int, int]], table: str) -> tuple[int, int]:
        """The sum over all shards of a table."""
        with ThreadPoolExecutor(READERS, "stale") as readers:
            sums = list(readers.map(ids, self._table(table).shards()))
        return sum(clips for clips, _ in sums), sum(captions for _, captions in sums)

    def _kept(self, shard: str) -> tuple[int, int]:
        """What the clips and the captions that curation keeps in one of its shards add up to."""
        clips = self._keys("clips", shard, _CLIP, only_ok=True)
        captions = self._keys("captions", shard, _CAPTION, only_ok=True)
        return _sum_of_ids(clips), _sum_of_ids({caption for caption in captions if caption[:1] in clips})

    def _encoded(self, shard: str) -> tuple[int, int]:
        """What the clips and the captions that a shard was made of add up to."""
        return _sum_of_ids(self._keys("latents", shard, _CLIP)), _sum_of_ids(self._keys("t5_tokens", shard, _CAPTION))

    def _keys(self, table: str, shard: str, columns: list[str], only_ok: bool = False) -> set[tuple[str, ...]]:
        rows = self.open(table, shard).read([*columns, "status"])
        return {key[:-1] for key in tuples(rows, [*columns, "status"]) if key[-1] == "ok" or not only_ok}


def _sum_of_ids(keys: Iterable[tuple[str, ...]]) -> int:
    """Equal for equal sets of rows, however they lie in shards; so that nobody holds the keys of them all."""
    return sum(int(content_id(*key), 16) for key in keys)


class _StoredRows:
    """A committed shard; what goes wrong on the disk is told with its remedy."""

    def __init__(self, table: Table, shard: str) -> None:
        self._table = table
        self._name = shard
        with self._told():
            self._shard = table.open(shard)
        self.starts = self._shard.starts

    def read(self, columns: Sequence[str]) -> pa.Table:
        with self._told():
            return self._shard.read(columns)

    def read_group(self, number: int, columns: Sequence[str]) -> pa.Table:
        with self._told():
            return self._shard.read_group(number, columns)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            verb = "curate" if self._table.name in ("clips", "captions") else "precompute"
            raise UserError(
                f"cannot read shard {self._name} of {self._table.uri} ({error}); remove {self._name}.parquet there and "
                f"run `mimir {verb}` again, which makes this shard anew"
            ) from error


def tuples(rows: pa.Table, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """The rows as Python values."""
    return list(zip(*(rows[name].to_pylist() for name in columns), strict=True))
