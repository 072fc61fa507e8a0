"""Clips as files: copied or encoded, named, accounted for, made once, and read back by curation as what they were."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

from mimir_ray.config import UserError, override
from mimir_ray.curation import CurationConfig, ExportSummary, export_clips, require_apart
from mimir_ray.curation.export import shard as exporting
from mimir_ray.curation.export.folder import exports_table, file_of
from mimir_ray.curation.export.shard import export_shard
from mimir_ray.curation.tables import outcome_table, rows_of
from mimir_ray.dataflow import Row
from mimir_ray.storage import content_id, file_id, join, list_files, read_bytes
from mimir_ray.video import Cut, Timing, read_frames, read_info
from tests.cli.command import mimir
from tests.curation.local import curate_whole
from tests.curation.rendering import moving, save
from tests.video.rendering import encode, numbered, numbers
from tests.video.rendering import shots as shots_of

CONFIG = override(
    CurationConfig(),
    [
        "basic.min_frames=1",
        "basic.motion_epsilon=0",
        "quality={max_black_area: 1, min_brightness: 0, max_black_frame_rate: 1}",
        "cpus_per_task=0.5",
    ],
)
KEYS = {"x264-params": "keyint=24:min-keyint=24:scenecut=0:bframes=2:open-gop=0"}
Wanted = list[tuple[float, float]]


@dataclass(frozen=True)
class LocalExport:
    """Stands in for the pipeline of an export: its shards one after another in this process."""

    predecessors: Mapping[str, Sequence[str]]
    out: str
    folder: str
    config: CurationConfig

    def iter_rows(self) -> Iterator[Row]:
        """Do it; a row a shard."""
        for shard, predecessors in self.predecessors.items():
            yield export_shard({"shard": shard, "predecessors": predecessors}, self.out, self.folder, self.config)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray."""
    monkeypatch.setattr("mimir_ray.curation.export.run.pipeline", LocalExport)


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The spans that are cut, as they are."""
    made: list[tuple[int, int]] = []
    make = exporting.make_clip

    def noting(path: str, file: str, span: tuple[int, int], timing: Timing, **options: Any) -> Cut:
        made.append(span)
        assert timing is not None, "some files would be decoded whole to tell it"
        return make(path, file, span, timing, **options)

    monkeypatch.setattr(exporting, "make_clip", noting)
    return made


def listed(folder: Path, videos: Mapping[str, Wanted]) -> Path:
    """A list beside videos that asks for these spans, in seconds, each with a caption of its own."""
    rows = [
        {"path": name, "start": start, "end": end, "caption": f"{name} from {start}"}
        for name, spans in videos.items()
        for start, end in spans
    ]
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "list.jsonl"


def film(path: Path, **options: Any) -> Path:
    """96 frames that say which they are, 24 a second, with a keyframe every second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return encode(path, numbered(96), **{"options": KEYS, "fps": 24, **options})


def kept(out: Path | str) -> dict[str, Row]:
    table = outcome_table(str(out), "clips")
    rows = (row for shard in table.shards() for row in rows_of(table, shard))
    return {file_of(row): row for row in rows if row["status"] == "ok"}


def made(folder: Path | str) -> dict[str, str]:
    table = exports_table(str(folder))
    return {row["file"]: row["made"] or row["reason"] for rows in table.scan() for row in rows.to_pylist()}


def files_in(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*.mp4")}


def captions_in(folder: Path) -> dict[str, list[dict[str, str]]]:
    rows = map(json.loads, (folder / "captions.jsonl").read_text().splitlines())
    return {row["path"]: row["captions"] for row in rows}


def everything(path: Path) -> NDArray[np.uint8]:
    return read_frames(path, range(read_info(path).frames), decord=False).frames


def packets(path: Path, first: int, end: int) -> list[bytes]:
    """Those that show these frames, in decoding order."""
    with av.open(str(path)) as container:
        found = [packet for packet in container.demux(video=0) if packet.pts is not None]
        shown = sorted(packet.pts for packet in found)[first:end]
        return [bytes(packet) for packet in found if packet.pts in shown]


def exported(source: Path, out: Path, folder: Path, config: CurationConfig = CONFIG, **options: bool) -> ExportSummary:
    curate_whole([str(source)], str(out), config)
    return export_clips(str(out), str(folder), config, **options)


@pytest.mark.usefixtures("here")
def test_a_clip_is_copied_where_that_is_exact_and_encoded_elsewhere(tmp_path: Path) -> None:
    path = film(tmp_path / "in" / "film.mp4")
    source = listed(tmp_path / "in", {"film.mp4": [(0, 1), (1, 3), (0.5, 1.5), (2.5, 4)]})
    out, folder = tmp_path / "out", tmp_path / "clips"
    summary = exported(source, out, folder)
    assert summary.line == f"exported 4 clips to {folder}: 2 copied, 2 encoded, 0 failed"
    assert files_in(folder) == set(kept(out)) == set(made(folder))
    for file, clip in kept(out).items():
        first, end = clip["first_frame"], clip["first_frame"] + clip["frames"]
        found, whole = everything(folder / file), everything(path)[first:end]
        assert numbers(found) == list(range(first, end))
        np.testing.assert_allclose(read_info(folder / file).times_s, clip["times_s"], atol=1e-6)
        assert read_info(folder / file).duration_s == pytest.approx(clip["duration_s"], abs=1e-6)
        if clip["start_s"] in (0, 1):
            assert made(folder)[file] == "copied"
            assert packets(folder / file, 0, end - first) == packets(path, first, end)
            np.testing.assert_array_equal(found, whole)
        else:
            assert made(folder)[file] == "encoded"
            assert np.abs(found.astype(int) - whole).mean() < 3
    assert captions_in(folder) == {
        file: [{"kind": "user", "text": f"film.mp4 from {clip['start_s']:g}"}] for file, clip in kept(out).items()
    }
    manifest = exports_table(str(folder)).manifest()
    assert manifest
    assert (manifest.inputs, manifest.ok) == (4, 4)


def ffmpeg(path: Path, *options: str, size: str = "96x64", rate: int = 25) -> Path:
    """A second of a moving test picture, encoded by the command line's ffmpeg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration=1"]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *drawn, *options, "-y", str(path)], check=True)
    return path


def rotated(path: Path) -> Path:
    upright = ffmpeg(path.with_name("upright.mp4"), "-c:v", "libx264", "-g", "30")
    turn = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-display_rotation", "90", "-i", str(upright)]
    subprocess.run([*turn, "-c", "copy", str(path)], check=True)
    upright.unlink()
    return path


PQ = "setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc"
LOOKS: dict[str, Callable[[Path], Path]] = {
    "hdr": lambda path: ffmpeg(
        path,
        "-vf",
        f"format=yuv420p10le,{PQ}",
        "-c:v",
        "libx265",
        "-x265-params",
        "keyint=30:open-gop=0:log-level=none",
    ),
    "interlaced": lambda path: ffmpeg(
        path, "-vf", "interlace", "-c:v", "libx264", "-flags", "+ildct+ilme", "-g", "12", size="96x64", rate=50
    ),
    "rotated": rotated,
    "anamorphic": lambda path: ffmpeg(path, "-vf", "setsar=4/3", "-c:v", "libx264", "-g", "30"),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("look", LOOKS)
def test_a_file_says_what_it_is_and_shows_what_the_source_shows(tmp_path: Path, look: str) -> None:
    path = LOOKS[look](tmp_path / "in" / "a.mp4")
    config = override(CONFIG, ["split=off", "basic.min_aspect=0.1"])
    curate_whole([str(path)], str(tmp_path / "out"), config)
    source = read_info(path)
    assert getattr(source, look)
    whole = None
    for mode in ("reencode", "either"):
        folder = tmp_path / mode
        summary = export_clips(str(tmp_path / "out"), str(folder), override(config, [f"export.mode={mode}"]))
        whole = everything(path) if whole is None else whole
        copied = mode == "either" and look != "interlaced"  # its packets do not tell which frames they show
        assert (summary.copied, summary.encoded) == (int(copied), int(not copied))
        (file,) = files_in(folder)
        made = read_info(folder / file)
        assert getattr(made, look) == copied
        assert (made.width_px, made.height_px, made.frames) == (source.width_px, source.height_px, source.frames)
        assert made.fps == source.fps
        if look == "hdr":
            assert (source.transfer, made.transfer) == ("pq", "pq" if copied else "bt709")
        off = np.abs(everything(folder / file).astype(int) - whole)
        assert off.max() == 0 if copied else off.mean() < 9


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("split", ["off", "{}"])
def test_curation_of_an_export_gives_the_same_clips(tmp_path: Path, split: str) -> None:
    (tmp_path / "in").mkdir()
    encode(tmp_path / "in" / "two shots.mp4", shots_of([60, 70], 64, 96), fps=24)
    film(tmp_path / "in" / "sub" / "film.mp4")
    said = 'A "caption" of\u2028two lines \\ ü 😀'
    line = {"path": "two shots.mp4", "captions": [{"kind": "long", "text": said}, {"kind": "short", "text": "Two."}]}
    (tmp_path / "in" / "captions.jsonl").write_text(json.dumps(line) + "\n")
    config = override(CONFIG, [f"split={split}"])
    summary = exported(tmp_path / "in", tmp_path / "out", tmp_path / "clips", config)
    before = kept(tmp_path / "out")
    assert len(before) == summary.copied + summary.encoded == (2 if split == "off" else 3)
    assert summary.copied == (2 if split == "off" else 1)
    again = curate_whole([str(tmp_path / "clips")], str(tmp_path / "again"), config)
    assert again.clips.ok == again.files.inputs == len(before)
    assert all("hidden" in note for note in again.notes), again.notes
    after = {str(Path(row["path"]).relative_to(tmp_path / "clips")): row for row in kept(tmp_path / "again").values()}
    assert {file: row["frames"] for file, row in after.items()} == {file: row["frames"] for file, row in before.items()}
    assert said_of(tmp_path / "again", after) == said_of(tmp_path / "out", before)
    assert (("long", said), ("short", "Two.")) in said_of(tmp_path / "out", before).values()
    for file, how in made(tmp_path / "clips").items():
        clip = before[file]
        whole = read_frames(clip["path"], range(clip["first_frame"], clip["first_frame"] + clip["frames"])).frames
        off = np.abs(everything(tmp_path / "clips" / file).astype(int) - whole)
        assert off.max() == 0 if how == "copied" else off.mean() < 4


def said_of(out: Path, clips: Mapping[str, Row]) -> dict[str, tuple[tuple[str, str], ...]]:
    """Kinds and texts of captions, by the file of the clip."""
    rows = [row for shard in outcome_table(str(out), "captions").scan() for row in shard.to_pylist()]
    return {
        file: tuple((row["kind"], row["text"]) for row in rows if row["clip_id"] == clip["clip_id"])
        for file, clip in clips.items()
    }


@pytest.mark.parametrize(
    ("path", "video"),
    [
        ("/a/My holiday (2).mp4", "My_holiday_2"),
        ("/a/😀.mp4", "video"),
        ("/a/'q\"u`o\\te$s'.mp4", "q_u_o_te_s"),
        ("/a/..hidden...mp4", "hidden"),
        ("/a/a:b*c?d<e>|f\n.mp4", "a_b_c_d_e_f"),
        ("/a/cafe\u0301 हिन्दी 日本.mov", "café_हिन्दी_日本"),
        ("/a/" + "ü" * 120 + ".mp4", "ü" * 40),
        ("/a/CON.mp4", "CON"),
        ("s3://b/x/100%25#1.webm?endpoint_override=http://h:1", "100_25_1"),
        ("tar:///a/shard.tar::film.mp4", "film"),
    ],
)
def test_a_name_tells_the_video_and_suits_every_file_system(path: str, video: str) -> None:
    if path.startswith("tar:"):
        path = "tar://film.mp4::/a/shard.tar"
    clip = {"path": path, "video_id": "0123456789abcdef", "clip_id": "f" * 16, "start_s": 12.5, "end_s": 3600.0}
    assert file_of(clip) == f"{video}_01234567/00012.500-03600.000_{'f' * 16}.mp4"


@pytest.mark.usefixtures("here")
def test_hostile_names_are_exported_and_found_again(tmp_path: Path) -> None:
    names = ["a/film.mp4", "b/film.mp4", "😀 'q\"uote.mp4", "x" * 200 + ".mp4", "[a]*.mp4", "..b.mp4", "con.mp4"]
    for index, name in enumerate(names):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / "in" / name, moving(16, background=100 + index * 20))
        (tmp_path / "in" / name).with_suffix(".txt").write_text(f"Number {index}.")
    config = override(CONFIG, ["split=off"])
    summary = exported(tmp_path / "in", tmp_path / "out", tmp_path / "clips", config)
    visible = [name for name in names if not name.startswith(".")]
    assert summary.copied == len(visible) == len({file.casefold() for file in files_in(tmp_path / "clips")})
    again = curate_whole([str(tmp_path / "clips")], str(tmp_path / "again"), config)
    assert (again.clips.ok, again.files.ok) == (len(visible), len(visible))
    texts = [
        row["text"] for shard in outcome_table(str(tmp_path / "again"), "captions").scan() for row in shard.to_pylist()
    ]
    assert sorted(texts) == [f"Number {names.index(name)}." for name in visible]


@pytest.mark.usefixtures("here")
def test_a_killed_export_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: list[tuple[int, int]]
) -> None:
    film(tmp_path / "in" / "film.mp4")
    source = listed(tmp_path / "in", {"film.mp4": [(start / 2, start / 2 + 1) for start in range(6)]})
    out, folder = tmp_path / "out", tmp_path / "clips"
    curate_whole([str(source)], str(out), CONFIG)
    monkeypatch.setattr(exporting, "SAVED_EVERY_S", -1.0)
    upload, left = exporting.upload, [4]

    def failing(file: str, location: str) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        upload(file, location)

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "upload", failing)
        with pytest.raises(KeyboardInterrupt):
            export_clips(str(out), str(folder), CONFIG)
    there = {file: (folder / file).stat().st_mtime_ns for file in files_in(folder)}
    assert len(there) == 3
    assert set(made(folder)) == set(kept(out)), "the table names a file before it is written"
    cuts.clear()
    assert export_clips(str(out), str(folder), CONFIG).line.endswith("3 copied, 3 encoded, 0 failed")
    assert cuts == [(first, first + 24) for first in (36, 48, 60)], "forward, and no more than what was left"
    assert {file: (folder / file).stat().st_mtime_ns for file in there} == there
    cuts.clear()
    monkeypatch.delattr("mimir_ray.curation.export.run.pipeline")
    assert export_clips(str(out), str(folder), CONFIG).copied == 3, "nothing is left to do"
    assert not cuts


@pytest.mark.usefixtures("here")
def test_files_follow_the_verdicts_and_strangers_stay(tmp_path: Path, cuts: list[tuple[int, int]]) -> None:
    film(tmp_path / "in" / "film.mp4")
    source = listed(tmp_path / "in", {"film.mp4": [(0, 1), (1, 3)]})
    out, folder = tmp_path / "out", tmp_path / "clips"
    exported(source, out, folder)
    (folder / "mine.mp4").write_bytes(b"not of the export")
    short, long = sorted(made(folder))
    stranger = (folder / short).with_name("mine.mp4")
    stranger.write_bytes(b"nor this")
    (folder / long).unlink()
    stricter = override(CONFIG, ["basic.min_frames=30"])
    cuts.clear()
    assert exported(source, out, folder, stricter).copied == 1
    assert files_in(folder) == {long, "mine.mp4", str(stranger.relative_to(folder))}
    assert set(captions_in(folder)) == {long}
    assert cuts == [(24, 72)], "a file that somebody removed is made again"
    assert exported(source, out, folder, CONFIG).copied == 2
    assert cuts == [(24, 72), (0, 24)]


@pytest.mark.usefixtures("here")
def test_a_file_that_joins_makes_no_file_anew_and_one_that_goes_takes_its_own(
    tmp_path: Path, cuts: list[tuple[int, int]]
) -> None:
    config = override(CONFIG, ["split=off", "files_per_shard=2"])
    for index in range(3):
        save(tmp_path / "in" / f"{index}.mp4", moving(16, background=100 + 30 * index))
    exported(tmp_path / "in", tmp_path / "out", tmp_path / "clips", config)
    before, shards = files_in(tmp_path / "clips"), exports_table(str(tmp_path / "clips")).shards()
    assert len(before) == len(cuts) == 3
    cuts.clear()
    for index in range(3, 6):
        save(tmp_path / "in" / f"{index}.mp4", moving(16, background=90 + 30 * index, square=10))
    (tmp_path / "in" / "0.mp4").unlink()
    assert exported(tmp_path / "in", tmp_path / "out", tmp_path / "clips", config).copied == 5
    assert len(cuts) == 3, "one of each new video"
    assert exports_table(str(tmp_path / "clips")).shards() != shards
    assert before - files_in(tmp_path / "clips") == {file for file in before if file[:2] == "0_"}
    assert not list((tmp_path / "clips").glob("0_*"))


@pytest.mark.usefixtures("here")
def test_a_source_that_changed_or_went_is_said_and_the_others_are_exported(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for index, name in enumerate(["longer.mp4", "other.mp4", "gone.mp4", "good.mp4"]):
        save(folder / name, moving(16, background=100 + 20 * index))
    config = override(CONFIG, ["split=off"])
    curate_whole([str(folder)], str(tmp_path / "out"), config)
    whole = (folder / "other.mp4").read_bytes()
    with (folder / "longer.mp4").open("ab") as file:
        file.write(b"more")
    (folder / "other.mp4").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    shutil.move(folder / "gone.mp4", tmp_path / "kept.mp4")
    summary = export_clips(str(tmp_path / "out"), str(tmp_path / "clips"), config)
    assert (summary.copied, summary.encoded) == (1, 0)
    size, gone = (folder / "longer.mp4").stat().st_size, (tmp_path / "kept.mp4").stat().st_size
    was, now = content_id(whole), content_id((folder / "other.mp4").read_bytes())
    changed = "has changed since it was curated, from"
    remedy = "bring it back, or run `mimir curate` again on what is there"
    assert set(summary.failed) == {
        f"{folder / 'longer.mp4'} {changed} {size - 4:,} bytes to {size:,}: {remedy}",
        f"{folder / 'other.mp4'} {changed} the content {was} to {now}: {remedy}",
        f"{folder / 'gone.mp4'} is not there; it had {gone:,} bytes: {remedy}",
    }
    assert len(captions_in(tmp_path / "clips")) == len(files_in(tmp_path / "clips")) == 1
    (folder / "other.mp4").write_bytes(whole)
    shutil.move(tmp_path / "kept.mp4", folder / "gone.mp4")
    summary = export_clips(str(tmp_path / "out"), str(tmp_path / "clips"), config)
    assert (summary.copied, sum(summary.failed.values())) == (3, 1), "what failed is tried again"


@pytest.mark.usefixtures("here")
def test_a_clip_that_cannot_be_written_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path / "in" / "film.mp4")
    source = listed(tmp_path / "in", {"film.mp4": [(0, 1), (1, 2), (2, 3)]})
    upload = exporting.upload

    def full(file: str, location: str) -> None:
        if "/00001.000-" in location:
            raise OSError(28, "No space left on device")
        upload(file, location)

    monkeypatch.setattr(exporting, "upload", full)
    summary = exported(source, tmp_path / "out", tmp_path / "clips")
    assert summary.line.endswith(": 2 copied, 0 encoded, 1 failed")
    assert summary.failed == {f"{path}: OSError: [Errno 28] No space left on device": 1}
    monkeypatch.undo()


@pytest.mark.usefixtures("here")
def test_other_settings_and_other_data_are_refused_until_they_are_meant(tmp_path: Path) -> None:
    film(tmp_path / "in" / "film.mp4")
    source = listed(tmp_path / "in", {"film.mp4": [(0, 1), (1, 2)]})
    folder, anew = tmp_path / "clips", override(CONFIG, ["export.mode=reencode"])
    exported(source, tmp_path / "out", folder)
    (folder / "mine.mp4").write_bytes(b"mine")
    before = {file: (folder / file).read_bytes() for file in files_in(folder)}
    with pytest.raises(UserError, match=r'name another folder or: .*export\.mode was "either" and is now "reencode"'):
        exported(source, tmp_path / "out", folder, anew)
    with pytest.raises(UserError, match=rf'data was "{tmp_path}/out" and is now "{tmp_path}/other".*Pass --overwrite'):
        exported(source, tmp_path / "other", folder)
    assert {file: (folder / file).read_bytes() for file in files_in(folder)} == before
    assert exported(source, tmp_path / "out", folder, anew, overwrite=True).encoded == 2
    after = {file: (folder / file).read_bytes() for file in files_in(folder)}
    assert after.keys() == before.keys()
    assert {file for file in after if after[file] == before[file]} == {"mine.mp4"}


@pytest.mark.usefixtures("here")
def test_captions_that_somebody_wrote_are_not_replaced(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.mp4", moving(16))
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "captions.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"clips/captions\.jsonl is there and no export wrote it; move it away or name"):
        exported(tmp_path / "in", tmp_path / "out", tmp_path / "clips", override(CONFIG, ["split=off"]))
    assert (tmp_path / "clips" / "captions.jsonl").read_text() == "mine"


@pytest.mark.usefixtures("here")
def test_a_data_root_that_holds_its_export_is_moved_with_it(tmp_path: Path, cuts: list[tuple[int, int]]) -> None:
    config = override(CONFIG, ["split=off"])
    save(tmp_path / "in" / "a.mp4", moving(16))
    exported(tmp_path / "in", tmp_path / "out", tmp_path / "out" / "export", config)
    shutil.move(tmp_path / "out", tmp_path / "moved")
    assert export_clips(str(tmp_path / "moved"), str(tmp_path / "moved" / "export"), config).copied == 1
    assert len(cuts) == 1


@pytest.mark.parametrize(
    ("folder", "source", "out", "why"),
    [
        ("in/clips", "in", "out", "lies in the source"),
        ("in", "in", "out", "lies in the source"),
        ("link/clips", "in", "out", "lies in the source"),
        ("in/a/b", "in/*", "out", "lies in the source"),
        ("in/b", "in/**/*.mp4", "out", "lies in the source"),
        ("in/out/clips", "in/out/raw/..", "in/out", "lies in the source"),
        (".", "in", "out", "lies in the export"),
        ("in/out/clips", "in", "in/out", None),
        ("clips", "in", "out", None),
        ("inside", "in", "out", None),
        ("in/clips", "in/*.mp4", "out", None),
        ("in/clips", "in/film.mp4", "out", None),
        ("in/clips", "in/list.jsonl", "out", None),
        ("s3://b/raw/clips", "s3://b/raw/", "s3://b/out", "lies in the source"),
        ("s3://b/raw/out/clips", "s3://b/raw", "s3://b/raw/out", None),
        ("s3://b/clips", "s3://b/raw", "s3://b/out", None),
        ("s3://b/rawer", "s3://b/raw", "s3://b/out", None),
    ],
)
def test_an_export_among_the_sources_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, source: str, out: str, why: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("link").symlink_to("in")
    if why is None:
        require_apart(folder, [source], out)
        return
    with pytest.raises(UserError, match=rf"{why}.*; name a folder elsewhere, .*out/export") as refused:
        require_apart(folder, ["elsewhere", source], out)
    assert source in str(refused.value)


@pytest.mark.usefixtures("here")
def test_a_store_takes_the_files_of_a_disk(tmp_path: Path, s3: str, cuts: list[tuple[int, int]]) -> None:
    film(tmp_path / "in" / "film ü.mp4")
    source = listed(tmp_path / "in", {"film ü.mp4": [(0, 1), (0.5, 1.5)]})
    remote = join(s3, content_id(str(tmp_path)), "clips")
    exported(source, tmp_path / "out", tmp_path / "clips")
    for _ in range(2):
        assert export_clips(str(tmp_path / "out"), remote, CONFIG).line == (
            f"exported 2 clips to {remote}: 1 copied, 1 encoded, 0 failed"
        )
    assert len(cuts) == 4, "twice here and twice there"
    assert {file_id(file) for file in list_files(remote, {".mp4"})} == {
        file_id(tmp_path / "clips" / file) for file in files_in(tmp_path / "clips")
    }
    assert read_bytes(join(remote, "captions.jsonl")) == (tmp_path / "clips" / "captions.jsonl").read_bytes()
    stricter = override(CONFIG, ["basic.min_frames=30"])
    curate_whole([str(source)], str(tmp_path / "out"), stricter)
    assert export_clips(str(tmp_path / "out"), remote, stricter).copied == 0
    assert list_files(remote, {".mp4"}) == []
    assert curate_whole([str(source)], str(tmp_path / "out"), CONFIG).clips.ok == 2


@pytest.mark.usefixtures("ray_session")
def test_the_verb_exports_on_ray_and_ends_with_1_where_a_clip_failed(tmp_path: Path) -> None:
    for index in range(2):
        save(tmp_path / "in" / f"{index}.mp4", moving(65, background=150 + 30 * index))
    out, folder = tmp_path / "out", tmp_path / "[bold]clips"
    verb = ["curate", str(tmp_path / "in"), "--out", str(out), "--export", str(folder), "-q"]
    verb += ["--set", "curation.files_per_shard=1"]
    for _ in range(2):
        result = mimir(*verb)
        assert result.exit_code == 0, result.output
        assert result.stdout.endswith(f"exported 2 clips to {folder}: 2 copied, 0 encoded, 0 failed\n")
    one = next(iter(sorted(files_in(folder))))
    (folder / one).unlink()
    (folder / one).mkdir()  # nothing can be written there
    result = mimir(*verb)
    assert result.exit_code == 1
    assert (
        f"exported 1 clips to {folder}: 1 copied, 0 encoded, 1 failed\n  1 failed: {tmp_path / 'in'}" in result.stdout
    )
    result = mimir("curate", str(tmp_path / "in"), "--out", str(out), "--export", str(tmp_path / "in" / "x"))
    assert result.exit_code == 2
    assert "lies in the source" in result.stderr
