"""How the files of a corpus are cut into shards of work."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from mimir_ray.curation.sources.file import SourceFile
from mimir_ray.storage import READERS, content_id, filesystem, shard_name

SAMPLE_BYTES = 1 << 12


def plan(files: Iterable[SourceFile], files_per_shard: int) -> dict[str, list[SourceFile]]:
    """Shards by name, such that files with the same bytes lie in the same one.

    A file's bucket depends on its size, on a sample of its bytes where more files have that size than fit a shard, and
    on the corpus's size in powers of two, so that new files leave other shards alone. The name also covers what is in
    the shard, so that a changed file makes a new shard.
    """
    files = list(files)
    buckets = 1
    while buckets * files_per_shard < len(files):
        buckets *= 2
    alike = Counter(file.size_bytes for file in files)
    twins = [file for file in files if alike[file.size_bytes] > files_per_shard]
    with ThreadPoolExecutor(READERS) as readers:
        samples = dict(zip((file.path for file in twins), readers.map(_sample, twins), strict=True))
    members: defaultdict[int, list[SourceFile]] = defaultdict(list)
    for file in files:
        bucket = int(content_id(str(file.size_bytes), samples.get(file.path, b"")), 16) % buckets
        members[bucket].append(file)
    return {shard_name(bucket, content_id(repr(shard))): shard for bucket, shard in sorted(members.items())}


def _sample(file: SourceFile) -> bytes:
    """Bytes from the middle of a file; none of one that cannot be read, which says so when it is its turn."""
    try:
        system, path = filesystem(file.path)
        with system.open_input_file(path) as stream:
            return bytes(stream.read_at(min(SAMPLE_BYTES, file.size_bytes), file.size_bytes // 2))
    except (OSError, ValueError):
        return b""
