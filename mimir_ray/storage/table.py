"""A table of Parquet shards: the one mechanism by which every stage commits, resumes and accounts for its rows."""

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from mimir_ray.config import Config, UserError, differences, fingerprint
from mimir_ray.records import SCHEMAS, VERSIONS
from mimir_ray.storage.ahead import ahead
from mimir_ray.storage.conform import conform
from mimir_ray.storage.files import (
    absolute,
    content_id,
    exists,
    filesystem,
    join,
    parent,
    read_json,
    write_bytes,
    write_json,
)
from mimir_ray.storage.shard import Shard, encode_shard

_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_REASONS = 200


class AccountingError(RuntimeError):
    """Rows were lost or doubled: a defect of the stage, never something to continue from."""


class Manifest(Config):
    """The account of a finished table, written last."""

    schema_version: int
    """The version of this table's schema, see ``records.VERSIONS``."""
    fingerprint: str
    config: dict[str, Any]
    """What the table was made with, parts that were off included."""
    inputs: int
    ok: int
    rejected: int
    quarantined: int
    reasons: dict[str, int]
    """Rows by reason, most frequent first; beyond 200 different reasons the rest is counted as ``(other)``."""
    shards: int
    shards_id: str
    """Content id of the sorted shard names: the table is finished only while exactly these are committed."""
    seconds: float
    """Wall time of the run that finished the table, from ``begin`` to ``finish``."""
    measured: dict[str, float] = {}
    """What the stage measured of the whole, by name."""


@dataclass(frozen=True)
class Table:
    """A directory of Parquet shards, each committed whole. Cheap to construct and to send to an actor."""

    uri: str
    schema: pa.Schema | None = None
    """The schema of its rows; that of its name in ``records.SCHEMAS`` unless given."""
    version: int | None = None
    """The version of what its rows mean; that of its name in ``records.VERSIONS`` unless given."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", absolute(self.uri))
        if self.schema is None:
            object.__setattr__(self, "schema", SCHEMAS.get(self.name))
        if self.version is None:
            object.__setattr__(self, "version", VERSIONS.get(self.name, 1))

    @property
    def name(self) -> str:
        """The last part of the location."""
        return parent(self.uri)[1]

    def shards(self) -> list[str]:
        """Names of the committed shards, sorted."""
        return sorted(
            name.removesuffix(".parquet")
            for name in self._files()
            if _SHARD.fullmatch(name) and name.endswith(".parquet")
        )

    def pending(self, expected: Iterable[str]) -> list[str]:
        """The expected shards that are not committed, in the order given."""
        committed = set(self.shards())
        return [shard for shard in expected if _checked(shard) not in committed]

    def has(self, shard: str) -> bool:
        """Whether one shard is committed, without a look at all the others."""
        return exists(self._file(f"{_checked(shard)}.parquet"))

    def drop(self, shards: Iterable[str]) -> None:
        """Remove committed shards that are stale, and with them the claim that the table is finished."""
        stale = set(shards) & set(self.shards())
        if stale:
            self._delete("_manifest.json")
        for _ in ahead(self._delete, [f"{shard}.parquet" for shard in sorted(stale)]):
            pass

    def commit(self, shard: str, rows: pa.Table, stamp: str = "") -> None:
        """Publish every row of a shard at once; committing the same shard again replaces it.

        ``stamp`` is kept with it, and says which configuration made it (``foreign``).

        Raises ValueError where the columns, their types, the statuses or the reasons are not what the schema and the
        accounting need.
        """
        if self.schema is None:
            raise ValueError(f"{self.name} is no known table; give it a schema or use one of {', '.join(SCHEMAS)}")
        checked = conform(rows, self.schema, f"shard {shard} of {self.name}")
        write_bytes(self._file(f"{_checked(shard)}.parquet"), encode_shard(checked, stamp))

    def open(self, shard: str) -> Shard:
        """One committed shard, of which only the footer is read at once. Raises FileNotFoundError."""
        return Shard(self._file(f"{_checked(shard)}.parquet"))

    def read(self, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one committed shard. Raises FileNotFoundError."""
        return self.open(shard).read(columns)

    def scan(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The committed shards in the order of their names; some of them are read ahead."""
        return ahead(partial(self.read, columns=columns), self.shards())

    def count(self, columns: Sequence[str], shards: Sequence[str] | None = None) -> Counter[tuple[Any, ...]]:
        """Rows by the values that they have in `columns`, over all committed shards unless some are named."""

        def one(shard: str) -> pa.Table:
            return self.read(shard, columns).group_by(list(columns)).aggregate([([], "count_all")])

        counts: Counter[tuple[Any, ...]] = Counter()
        for part in ahead(one, self.shards() if shards is None else shards):
            for row in part.to_pylist():
                counts[tuple(row[column] for column in columns)] += row["count_all"]
        return counts

    def begin(self, config: Config, overwrite: bool = False) -> None:
        """Open the table for a run with ``config``; what an equal configuration committed before is kept.

        Raises UserError where the table has another version or other columns, or was made with another configuration:
        the message says what differs.
        With ``overwrite`` such a table is emptied instead.
        """
        try:
            self._check(config)
        except UserError:
            if not overwrite:
                raise
            self._delete("_run.json")
            self.drop(self.shards())
        for leftover in self._files():
            if leftover.startswith(".") and leftover.endswith(".tmp"):
                self._delete(leftover)
        write_json(self._file("_run.json"), self.document(config, replacing=self._replacing()))

    def document(self, config: Config, *, replacing: bool) -> dict[str, Any]:
        """What an open table says of the configuration that makes it.

        Args:
            replacing: whether shards of another one may still be there, which a run replaces as its own are made.
        """
        return {
            "schema_version": self.version,
            "columns": None if self.schema is None else self.schema.names,
            "fingerprint": fingerprint(config),
            "began_unix_s": time.time(),
            "config": config.model_dump(mode="json"),
            "replacing": replacing,
            "stamp": self.stamp(config),
        }

    def stamp(self, config: Config) -> str:
        """What shards are marked with that a configuration made."""
        columns = [] if self.schema is None else self.schema.names
        return content_id(str(self.version), *columns, fingerprint(config))

    def is_of(self, config: Config) -> bool:
        """Whether the table is open for a configuration, or new."""
        try:
            self._check(config)
        except UserError:
            return False
        return True

    def foreign(self, config: Config) -> frozenset[str]:
        """The committed shards that another configuration made. Shards themselves are looked at where a run was stopped
        that replaced them; there, those of a mimir that marked none count as another's."""
        shards = self.shards()
        if not self._replacing():
            return frozenset(() if self.is_of(config) else shards)
        stamps = ahead(lambda shard: self.open(shard).stamp, shards)
        return frozenset(shard for shard, stamp in zip(shards, stamps, strict=True) if stamp != self.stamp(config))

    def replace(self, document: Mapping[str, Any]) -> None:
        """Open the table for the configuration of a ``document``, by which its shards are about to be replaced."""
        self.reopen()
        write_json(self._file("_run.json"), dict(document))

    def reopen(self) -> None:
        """Take back the claim that the table is finished: committed shards are about to be replaced."""
        self._delete("_manifest.json")

    def finish(self, inputs: int, measured: Mapping[str, float] | None = None) -> Manifest:
        """Count the committed rows shard by shard and write the manifest; a table already finished is left alone.

        Raises AccountingError unless ``inputs`` equals the number of rows, in which case no manifest is written.
        """
        previous = self.manifest()
        if previous is not None and previous.inputs == inputs:
            return previous
        run = read_json(self._file("_run.json"))
        statuses: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        shards = self.shards()
        for (status, reason), rows in self.count(["status", "reason"], shards).items():
            statuses[status] += rows
            if status != "ok":
                known = reason in reasons or len(reasons) < _MAX_REASONS
                reasons[reason if known else "(other)"] += rows
        if statuses.total() != inputs:
            raise AccountingError(
                f"{self.uri}: {inputs} inputs but {statuses['ok']} ok + {statuses['rejected']} rejected + "
                f"{statuses['quarantined']} quarantined = {statuses.total()} rows in {len(shards)} shards; "
                f"no manifest was written: remove {self.uri}, run the stage again, and report this"
            )
        manifest = Manifest(
            schema_version=run["schema_version"],
            fingerprint=run["fingerprint"],
            config=run["config"],
            inputs=inputs,
            ok=statuses["ok"],
            rejected=statuses["rejected"],
            quarantined=statuses["quarantined"],
            reasons=dict(reasons.most_common()),
            shards=len(shards),
            shards_id=content_id(*shards),
            seconds=max(0.0, time.time() - run["began_unix_s"]),
            measured=dict(measured or {}),
        )
        write_json(self._file("_manifest.json"), manifest.model_dump(mode="json"))
        if run.get("replacing"):
            write_json(self._file("_run.json"), run | {"replacing": False})
        return manifest

    def manifest(self) -> Manifest | None:
        """The account of the table if it is finished: a manifest is there and exactly its shards are committed."""
        if not exists(self._file("_manifest.json")):
            return None
        manifest = Manifest.model_validate(read_json(self._file("_manifest.json")))
        return manifest if manifest.shards_id == content_id(*self.shards()) else None

    def _replacing(self) -> bool:
        run = self._file("_run.json")
        return exists(run) and bool(read_json(run).get("replacing"))

    def _check(self, config: Config) -> None:
        if exists(self._file("_run.json")):
            self._refuse_other(read_json(self._file("_run.json")), config)
        elif committed := self.shards():
            raise UserError(
                f"{self.uri} holds {len(committed)} shards of unknown configuration (its _run.json is missing); "
                "pass --overwrite to replace them or choose another --out"
            )

    def _refuse_other(self, run: dict[str, Any], config: Config) -> None:
        shards = self.shards()
        remedy = f"Pass --overwrite to replace its {len(shards)} shards, choose another --out, or"
        if run.get("replacing"):
            done = sum(stamp == run["stamp"] for stamp in ahead(lambda shard: self.open(shard).stamp, shards))
            remedy = f"(An overwrite that was stopped has replaced {done} of its {len(shards)} shards.) {remedy}"
        if run["schema_version"] != self.version:
            raise UserError(
                f"{self.uri} holds version {run['schema_version']} of the table {self.name}, and this mimir makes "
                f"version {self.version}. {remedy} go on with the mimir that made it"
            )
        columns = [] if self.schema is None else self.schema.names
        held = run.get("columns") or columns
        other = [f"{name} is new" for name in columns if name not in held]
        if other := [*other, *(f"{name} is gone" for name in held if name not in columns)]:
            raise UserError(
                f"{self.uri} holds the table {self.name}, of version {self.version}, with other columns: "
                f"{', '.join(other)}. {remedy} go on with the mimir that made it"
            )
        if changed := differences(run["config"], config.model_dump(mode="json")):
            raise UserError(
                f"{self.uri} was made with another configuration: {'; '.join(changed)}. {remedy} undo the change"
            )

    def _file(self, name: str) -> str:
        return join(self.uri, name)

    def _files(self) -> list[str]:
        system, path = filesystem(self.uri)
        infos = system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return [info.base_name for info in infos if info.type == pafs.FileType.File]

    def _delete(self, name: str) -> None:
        system, path = filesystem(self._file(name))
        if system.get_file_info(path).type != pafs.FileType.NotFound:
            system.delete_file(path)


def _checked(shard: str) -> str:
    if not _SHARD.fullmatch(shard):
        raise ValueError(
            f"{shard!r} cannot name a shard: use letters, digits, '.', '_' and '-', starting with a letter or digit"
        )
    return shard
