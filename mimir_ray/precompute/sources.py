"""The videos that clips are spans of: fetched, checked and read forward once, however many clips they hold."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Self

import numpy as np
import numpy.typing as npt

from mimir_ray.precompute.outcomes import Away
from mimir_ray.records import Clip
from mimir_ray.storage import local_copy, located, why_other
from mimir_ray.video import VideoError, allowed_s, read_frames

Source = tuple[str, str, int]


def source_of(clip: Clip) -> Source:
    """What tells sources apart: path, content id and size."""
    return clip.path, clip.video_id, clip.size_bytes


class Sources:
    """Reads clips that come source by source; one source is held at a time, and a copy of it where it is not local.

    A source that is away, or is another one than was curated, is looked at once and fails for all of its clips.
    """

    def __init__(self, data: str, timeout_s: float) -> None:
        """``data`` is the root that paths may be relative to, ``timeout_s`` the wall time of one read, of which a
        clip that begins late in its video has more."""
        self._data, self._timeout_s = data, timeout_s
        self._held = ExitStack()
        self._source: Source | None = None
        self._path, self._reason = "", ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def read(self, clip: Clip, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Frames of a clip (F H W 3) by their indices, counted from its first one.

        Raises Away where its source cannot be had or has changed, VideoError where that does not hold these frames.
        """
        uri = located(self._data, clip.path)
        if source_of(clip) != self._source:
            self._open(uri, clip)
        if self._reason:
            raise Away(self._reason)
        span = clip.first_frame, clip.first_frame + clip.frames
        shown_s = clip.start_s, clip.start_s + clip.times_s[-1]
        timeout_s = allowed_s(self._timeout_s, clip.start_s)
        try:
            return read_frames(self._path, indices, span=span, shown_s=shown_s, timeout_s=timeout_s).frames
        except VideoError as error:
            with _away(uri):  # it may have gone only now
                _check(uri, clip)
            raise VideoError(f"{uri}: {error}") from error

    def _open(self, uri: str, clip: Clip) -> None:
        self._held.close()
        self._source, self._path, self._reason = source_of(clip), "", ""
        try:
            with _away(uri):
                _check(uri, clip)
                self._path = self._held.enter_context(local_copy(uri))
                _check(uri, clip, self._path)
        except Away as away:
            self._reason = str(away)


@contextmanager
def _away(uri: str) -> Iterator[None]:
    """Whatever goes wrong on the way to a file is no property of what it holds."""
    try:
        yield
    except Away:
        raise
    except Exception as error:
        raise Away(f"cannot read {uri} ({type(error).__name__}: {error}); see that it can be read from here") from error


def _check(uri: str, clip: Clip, copy: str = "") -> None:
    """Raises Away where a clip's source is not what was curated: by its size and, where there is a copy, its bytes."""
    if why := why_other(uri, clip.size_bytes, clip.video_id if copy else "", copy):
        raise Away(why)
