"""Whether all of a file is there, by what its outermost boxes say of its length."""

from mimir_ray.video.errors import VideoError

REMEDY = "fetch it again, or leave it out"
"""What helps with a file that is damaged."""
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def check_complete(path: str, formats: set[str], size_bytes: int) -> None:
    """Raise VideoError for an mp4, AVI or Matroska file that is shorter than its headers promise."""
    if "avi" in formats:
        promised = _riff_bytes(path)
    elif "mp4" in formats:
        promised = _mp4_bytes(path, size_bytes)
    elif "matroska" in formats:
        promised = _matroska_bytes(path)
    else:
        promised = 0
    if size_bytes < promised:
        raise VideoError(f"cut off: holds {size_bytes:,} of the {promised:,} bytes that its headers promise; {REMEDY}")


def _riff_bytes(path: str) -> int:
    with open(path, "rb") as file:
        return 8 + int.from_bytes(file.read(8)[4:], "little")


def _mp4_bytes(path: str, size_bytes: int) -> int:
    """Where the last box ends; 0 where one says that it goes on to the end, whatever that is."""
    place = 0
    with open(path, "rb") as file:
        while place < size_bytes:
            file.seek(place)
            head = file.read(16)
            length = int.from_bytes(head[:4])
            if length == 1:
                length = int.from_bytes(head[8:])
            if length < 8:  # 0: up to the end; less than its own head: padding
                return 0
            place += length
    return place


def _matroska_bytes(path: str) -> int:
    """Where the segment ends; 0 where nobody knew when it was written."""
    place = 0
    with open(path, "rb") as file:
        for name in (_EBML, _SEGMENT):
            file.seek(place)
            head = file.read(12)
            if head[:4] != name or len(head) < 12 or not head[4]:
                return 0
            width = 9 - head[4].bit_length()
            size = int.from_bytes(head[4 : 4 + width]) & ((1 << 7 * width) - 1)
            if size == (1 << 7 * width) - 1:
                return 0
            place += 4 + width + size
    return place
