import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mimir_ray.config import UserError, override
from mimir_ray.curation import CurationConfig, curate, losses, render
from mimir_ray.storage import Table, content_id, file_id
from tests.curation.rendering import moving, save

pytestmark = pytest.mark.usefixtures("ray_session")

CONFIG = override(CurationConfig(), ["split=off", "files_per_shard=4", "cpus_per_task=0.5"])
TABLES = ("videos", "clips", "captions")


def rows(out: Path, table: str) -> list[dict[str, Any]]:
    found = [row for shard in Table(str(out / table)).scan() for row in shard.to_pylist()]
    return sorted(found, key=lambda row: [str(value) for value in row.values()])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good clips, a copy of one, and ten files that must not pass, each in its own way."""
    folder = tmp_path_factory.mktemp("corpus")
    for index, name in enumerate(["good 1.mp4", "good's 2.mp4", "gut-ü.mp4", "sub/good_4.mp4"]):
        (folder / name).parent.mkdir(exist_ok=True)
        save(folder / name, moving(background=180 + 10 * index))
    (folder / "good 1.txt").write_text("A square crosses the picture.")
    save(folder / "short.mp4", moving(40))
    save(folder / "wide.mp4", moving(width=160))
    save(folder / "still.mp4", np.repeat(moving(1), 65, axis=0))
    save(folder / "dark.mp4", moving(background=45, square=90))
    whole = (folder / "good 1.mp4").read_bytes()
    (folder / "sub" / "same.mp4").write_bytes(whole)
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("This is a text file that somebody renamed.")
    (folder / "empty.mp4").touch()
    os.mkfifo(folder / "pipe.mp4")
    (folder / "gone.mp4").symlink_to("nowhere.mp4")
    (folder / "loop").symlink_to(folder)
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.mp4")).write_bytes(whole)
    return folder


@pytest.fixture(scope="module")
def curated(corpus: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    out = tmp_path_factory.mktemp("curated")
    curate([str(corpus)], str(out), CONFIG)
    return out


def test_every_input_is_kept_rejected_or_quarantined_with_a_reason(corpus: Path, curated: Path) -> None:
    summary = curate([str(corpus)], str(curated), CONFIG)
    files, clips = summary.files, summary.clips
    assert (files.inputs, files.ok, files.rejected) == (15, 8, {"duplicate": 1})
    assert (clips.inputs, clips.ok, clips.quarantined) == (8, 4, {})
    assert clips.rejected == {"frames": 1, "aspect": 1, "motion": 1, "brightness": 1}
    for account in (files, clips):
        assert account.inputs == account.ok + sum(account.rejected.values()) + sum(account.quarantined.values())
    size = (corpus / "cut.mp4").stat().st_size
    whole = (corpus / "good 1.mp4").stat().st_size
    reasons = {Path(loss.path).name: (loss.status, loss.reason) for loss in losses(str(curated))}
    assert reasons == {
        "short.mp4": ("rejected", "has 40 frames, at least 65 are needed"),
        "wide.mp4": ("rejected", "is too wide: 160x64 is 2.50 wide to 1 high, at most 2 is allowed"),
        "still.mp4": ("rejected", "stands still: motion 0 of the diagonal, more than 0.0001 is needed"),
        "dark.mp4": ("rejected", "is too dark: brightness 0.19, at least 0.2 is needed"),
        "same.mp4": ("rejected", f"has the same bytes as {corpus / 'good 1.mp4'}"),
        "cut.mp4": (
            "quarantined",
            f"probe: cut off: holds {size:,} of the {whole:,} bytes that its headers promise; "
            "fetch it again, or leave it out",
        ),
        "text.mp4": ("quarantined", "probe: is not a video that FFmpeg understands"),
        "empty.mp4": ("quarantined", "probe: the file is empty (0 bytes)"),
        "pipe.mp4": ("quarantined", "probe: is not a regular file"),
        "gone.mp4": ("quarantined", "probe: cannot be opened: No such file or directory"),
        "bad\ufffd.mp4": ("quarantined", "open: its name is not UTF-8: rename it"),
    }


def test_tables_say_what_there_is(corpus: Path, curated: Path) -> None:
    path = str(corpus / "good 1.mp4")
    video = next(row for row in rows(curated, "videos") if row["path"] == path)
    clip = next(row for row in rows(curated, "clips") if row["path"] == path)
    assert video["video_id"] == clip["video_id"] == file_id(path)
    assert clip["clip_id"] == content_id(video["video_id"], "0.000000-4.062500")
    assert (clip["start_s"], clip["end_s"], clip["frames"], clip["width_px"], clip["fps"]) == (0, 4.0625, 65, 64, 16)
    assert (video["codec"], video["rotation_deg"], video["size_bytes"]) == ("h264", 0, os.path.getsize(path))
    captions = {row["clip_id"]: (row["kind"], row["text"], row["status"]) for row in rows(curated, "captions")}
    assert captions[clip["clip_id"]] == ("user", "A square crosses the picture.", "ok")
    short = next(row for row in rows(curated, "clips") if row["path"].endswith("short.mp4"))
    assert captions[short["clip_id"]] == ("filename", "short", "rejected")
    assert None not in (short["motion"], short["black_area"], short["brightness"], short["black_frame_rate"])


def test_manifests_account_for_every_row(curated: Path) -> None:
    manifests = {name: Table(str(curated / name)).manifest() for name in TABLES}
    counts = {name: (m.inputs, m.ok, m.rejected, m.quarantined) for name, m in manifests.items() if m}
    assert counts == {"videos": (15, 8, 1, 6), "clips": (8, 4, 4, 0), "captions": (8, 4, 4, 0)}


def test_a_finished_run_is_left_alone(corpus: Path, curated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file: file.stat().st_mtime_ns for file in curated.rglob("*.parquet")}
    monkeypatch.delattr("mimir_ray.curation.pipeline.pipeline")
    summary = curate([str(corpus)], str(curated), CONFIG)
    assert summary.shards_reused == summary.shards == len(Table(str(curated / "clips")).shards())
    assert {file: file.stat().st_mtime_ns for file in curated.rglob("*.parquet")} == before


def test_another_threshold_judges_the_scores_anew_and_measures_nothing(corpus: Path, tmp_path: Path) -> None:
    source = str(corpus / "short.mp4")
    assert curate([source], str(tmp_path), CONFIG).clips.ok == 0
    scores = {file: file.stat().st_mtime_ns for file in (tmp_path / "stages").rglob("*.parquet")}
    assert curate([source], str(tmp_path), override(CONFIG, ["basic.min_frames=40"])).clips.ok == 1
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "stages").rglob("*.parquet")} == scores
    assert len(scores) == 2


def test_another_measure_is_refused_until_it_is_meant(corpus: Path, tmp_path: Path) -> None:
    source = str(corpus / "short.mp4")
    curate([source], str(tmp_path), CONFIG)
    finer = override(CONFIG, ["measures.motion_fps=4"])
    with pytest.raises(UserError, match=r"measures\.motion_fps was 2\.0 and is now 4\.0"):
        curate([source], str(tmp_path), finer)
    motion = rows(tmp_path, "clips")[0]["motion"]
    curate([source], str(tmp_path), finer, overwrite=True)
    assert rows(tmp_path, "clips")[0]["motion"] < motion


def test_new_files_are_added_and_missing_ones_dropped(corpus: Path, tmp_path: Path) -> None:
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    for index in range(9):
        save(inputs / f"{index}.mp4", moving(40, background=120 + 10 * index))
    first = curate([str(inputs)], str(out), CONFIG)
    (inputs / "3.mp4").unlink()
    (inputs / "new.mp4").hardlink_to(corpus / "sub" / "good_4.mp4")
    second = curate([str(inputs)], str(out), CONFIG)
    assert (first.clips.inputs, first.clips.ok, second.clips.inputs, second.clips.ok) == (9, 0, 9, 1)
    assert second.shards_reused > 0
    assert {Path(row["path"]).name for row in rows(out, "clips")} == {f.name for f in inputs.iterdir()}


def test_a_driver_killed_in_the_middle_changes_nothing_in_the_end(tmp_path: Path) -> None:
    import ray

    inputs = tmp_path / "in"
    for index in range(24):
        save(inputs / f"{index}.mp4", moving(background=120 + 5 * index))
    config = override(CONFIG, ["files_per_shard=2"])
    script = """if True:
        import os, signal, sys, ray
        from mimir_ray.config import from_yaml
        from mimir_ray.curation import CurationConfig, curate
        address, source, out, config = sys.argv[1:]
        ray.init(address=address, log_to_driver=False, configure_logging=False)
        stop = lambda done, total: done == 3 and os.kill(os.getpid(), signal.SIGKILL)
        curate([source], out, from_yaml(CurationConfig, config), progress=stop)
    """
    from mimir_ray.config import to_yaml

    address = ray.get_runtime_context().gcs_address
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.run(
        [sys.executable, "-c", script, address, str(inputs), str(killed), to_yaml(config)], capture_output=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    committed = {file: file.stat().st_mtime_ns for file in (killed / "clips").glob("*.parquet")}
    assert not (killed / "clips" / "_manifest.json").exists()
    summary = curate([str(inputs)], str(killed), config)
    assert summary.files.inputs == 24
    assert 3 <= len(committed) <= summary.shards_reused < summary.shards
    assert {file: file.stat().st_mtime_ns for file in committed} == committed
    curate([str(inputs)], str(whole), config)
    for table in TABLES:
        assert rows(killed, table) == rows(whole, table)


def test_the_summary_reads_as_a_table(corpus: Path, curated: Path) -> None:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    summary = curate([str(corpus)], str(curated), CONFIG)
    console.print(render(summary))
    text = console.export_text(clear=True)
    assert "s; all of it was there before" in text
    for words in ("kept", "black frame rate", "quarantined", "probe: is not a video that FFmpeg understands", "files"):
        assert (words in text) == (words != "black frame rate"), text
    half = summary.model_copy(update={"shards_reused": summary.shards - 1, "seconds": 0.5})
    console.print(render(half))
    assert re.search(rf"0\.5 s; this run did 1 of {summary.shards} shards, \d+ clips/s", console.export_text())
