"""Videos are fetched and checked once, read forward, and another one than was curated is never read."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimir_ray.precompute import sources as module
from mimir_ray.precompute.outcomes import Away, failed
from mimir_ray.precompute.sources import Sources
from mimir_ray.records import Clip
from mimir_ray.storage import curated, file_id, upload
from mimir_ray.video import VideoError, write_mp4
from tests.precompute.world import clip_row
from tests.video.decoders import stopped_decoders
from tests.video.rendering import encode, numbered, numbers


def film(path: Path, frames: int = 40) -> Path:
    """Frame n is a grey of 5 + 6 n: what is read can be told."""
    write_mp4(path, np.stack([np.full((32, 32, 3), 5 + 6 * n, np.uint8) for n in range(frames)]), fps=8.0)
    return path


def spans(file: Path, count: int, frames: int = 10, **changes: Any) -> list[Clip]:
    """Clips of a film, one after another."""
    row = clip_row("clip", file, frames=frames) | changes
    return [Clip(**row | {"clip_id": f"clip-{n}", "first_frame": n * frames}) for n in range(count)]


def shown(frames: np.ndarray) -> list[int]:
    return [round((float(frame.mean()) - 5) / 6) for frame in frames]


def test_indices_count_from_the_clips_first_frame(tmp_path: Path) -> None:
    with Sources(str(tmp_path), 30.0) as sources:
        for number, clip in enumerate(spans(film(tmp_path / "film.mp4"), 4)):
            assert shown(sources.read(clip, [0, 4, 9])) == [10 * number, 10 * number + 4, 10 * number + 9]


def test_a_source_is_fetched_and_checked_once_and_nothing_of_it_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    held: list[str] = []
    real = module.local_copy

    @contextmanager
    def counted(uri: str) -> Iterator[str]:
        fetched.append(uri)
        with real(uri) as path:
            held.append(path)
            yield path

    monkeypatch.setattr(module, "local_copy", counted)
    clips = []
    for name in ("a", "b"):
        path = film(tmp_path / f"{name}.mp4")
        upload(str(path), f"memory://sources/{name}.mp4")
        clips += spans(path, 4, path=f"memory://sources/{name}.mp4")
    with Sources(str(tmp_path), 30.0) as sources:
        for number, clip in enumerate(clips):
            sources.read(clip, [0])
            assert [os.path.exists(path) for path in held] == [True] if number < 4 else [False, True]
    assert fetched == ["memory://sources/a.mp4", "memory://sources/b.mp4"]
    assert not any(map(os.path.exists, held))


def test_a_relative_path_lies_below_the_data_root_wherever_that_is(tmp_path: Path) -> None:
    (tmp_path / "data" / "videos").mkdir(parents=True)
    (clip,) = spans(film(tmp_path / "data" / "videos" / "a.mp4"), 1, path="videos/a.mp4")
    shutil.move(tmp_path / "data", tmp_path / "moved")
    with Sources(str(tmp_path / "moved"), 30.0) as sources:
        assert shown(sources.read(clip, [3])) == [3]
    with (
        Sources(str(tmp_path / "data"), 30.0) as sources,
        pytest.raises(Away, match=r"data/videos/a\.mp4 is not there"),
    ):
        sources.read(clip, [3])


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.ts", "libx264"), ("a.webm", "libvpx")])
def test_a_late_clip_of_a_video_that_is_read_from_its_start_is_waited_for(
    name: str, codec: str, tmp_path: Path
) -> None:
    path = encode(tmp_path / name, numbered(250, 144, 256), codec=codec, fps=10)
    clips = [clip.model_copy(update={"start_s": clip.first_frame / 10}) for clip in spans(path, 25)]
    with Sources(str(tmp_path), 1e-4) as sources:
        with stopped_decoders(path), pytest.raises(VideoError, match="stopped after its limit of 0"):
            sources.read(clips[0], [0, 9])
        for first in (200, 230, 120):
            assert numbers(sources.read(clips[first // 10], [0, 9])) == [first, first + 9]


def gone(path: Path) -> None:
    path.unlink()


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"!")


def as_long(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (gone, r"is not there; it had {size} bytes: bring it back, or run `mimir curate` again"),
        (longer, r"has changed since it was curated, from {size} bytes to {more}: bring"),
        (as_long, r"has changed since it was curated, from the content {content} to [0-9a-f]{{16}}: bring"),
        (a_folder, r"is not there"),
    ],
)
def test_a_source_that_is_not_what_was_curated_fails_for_all_of_its_clips(
    change: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "film.mp4")
    clips, size, content = spans(path, 4), path.stat().st_size, file_id(path)
    change(path)
    looked: list[str] = []
    monkeypatch.setattr(curated, "file_id", lambda path: looked.append(path) or file_id(path))
    reasons = set()
    with Sources(str(tmp_path), 30.0) as sources:
        for clip in clips:
            with pytest.raises(
                Away, match=said.format(size=f"{size:,}", more=f"{size + 1:,}", content=content)
            ) as told:
                sources.read(clip, [0])
            reasons.add(failed(told.value)["reason"])
    (reason,) = reasons
    assert reason.startswith(f"tried again by the next run: {path} ")
    assert len(looked) == (1 if change is as_long else 0), "only what has the size is hashed, and once"


def test_storage_that_fails_is_no_fault_of_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class BotoError(Exception):
        pass

    def fails(uri: str) -> Any:
        raise BotoError("could not connect to the endpoint")

    monkeypatch.setattr(curated, "filesystem", fails)
    (clip,) = spans(film(tmp_path / "film.mp4"), 1)
    with (
        Sources(str(tmp_path), 30.0) as sources,
        pytest.raises(Away, match=r"cannot read .*film\.mp4 \(BotoError: could"),
    ):
        sources.read(clip, [0])


def test_damage_is_said_with_the_path_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"no video")
    (clip,) = spans(path, 1)
    with Sources(str(tmp_path), 30.0) as sources, pytest.raises(VideoError, match=f"^{path}: ") as told:
        sources.read(clip, [0])
    assert not failed(told.value)["reason"].startswith("tried again")


def test_a_source_that_goes_while_it_is_read_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path / "film.mp4")
    clips = spans(path, 2)
    with Sources(str(tmp_path), 30.0) as sources:
        sources.read(clips[0], [0])
        path.unlink()
        with pytest.raises(Away, match="is not there"):
            sources.read(clips[1], [0])
