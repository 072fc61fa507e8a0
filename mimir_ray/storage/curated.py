"""Whether a file is still the one that was curated."""

import pyarrow.fs as pafs

from mimir_ray.storage.files import file_id, filesystem

_REMEDY = "bring it back, or run `mimir curate` again on what is there"


def why_other(uri: str, size_bytes: int, content: str = "", copy: str = "") -> str:
    """Why what is at a location is not the file of so many bytes that was curated there, in a sentence; empty if it is.

    Where `content`, the `file_id` that it had, is given, a file that has the size is read and compared too. A local
    `copy` is looked at in its place. Raises what its file system raises.
    """
    system, path = filesystem(copy or uri)
    found = system.get_file_info(path)
    if found.type != pafs.FileType.File:
        return f"{uri} is not there; it had {size_bytes:,} bytes: {_REMEDY}"
    if found.size != size_bytes:
        change = f"{size_bytes:,} bytes to {found.size:,}"
    elif content and (now := file_id(copy or uri)) != content:
        change = f"the content {content} to {now}"
    else:
        return ""
    return f"{uri} has changed since it was curated, from {change}: {_REMEDY}"
