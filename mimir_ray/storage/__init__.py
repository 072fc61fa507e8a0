"""Files on any file system, and tables of Parquet shards that appear whole or not at all.

What is pending is what is not there, so a stage that was killed continues with it:

    table = Table(join(out, "clips"))
    table.begin(config)                          # refuses to mix two configurations in one table
    for shard in table.pending(expected):
        table.commit(shard, rows)                # every row of the shard, each with its status and reason
    manifest = table.finish(inputs=rows)         # raises unless rows == ok + rejected + quarantined
"""

from mimir_ray.storage.accounts import Account, account, render_accounts
from mimir_ray.storage.ahead import READERS, ahead
from mimir_ray.storage.archives import Member, member_of, members
from mimir_ray.storage.buckets import bucket_of, find_predecessors, shard_name
from mimir_ray.storage.curated import why_other
from mimir_ray.storage.files import (
    LatestCopy,
    absolute,
    below,
    content_id,
    exists,
    file_id,
    filesystem,
    join,
    list_files,
    local_copy,
    located,
    parent,
    read_bytes,
    read_json,
    upload,
    write_bytes,
    write_json,
)
from mimir_ray.storage.shard import Shard
from mimir_ray.storage.table import AccountingError, Manifest, Table

__all__ = [
    "READERS",
    "Account",
    "AccountingError",
    "LatestCopy",
    "Manifest",
    "Member",
    "Shard",
    "Table",
    "absolute",
    "account",
    "ahead",
    "below",
    "bucket_of",
    "content_id",
    "exists",
    "file_id",
    "filesystem",
    "find_predecessors",
    "join",
    "list_files",
    "local_copy",
    "located",
    "member_of",
    "members",
    "parent",
    "read_bytes",
    "read_json",
    "render_accounts",
    "shard_name",
    "upload",
    "why_other",
    "write_bytes",
    "write_json",
]
