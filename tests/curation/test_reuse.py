"""What is known of a clip stays known when the shard that it is in changes."""

from pathlib import Path
from typing import Any

import pytest

from mimir_ray.config import override
from mimir_ray.curation import CurationConfig, write_report
from mimir_ray.curation.reuse import inherit
from mimir_ray.curation.tables import SCORES, commit, outcome_table, rows_of, stage_table
from mimir_ray.curation.watch import Watched, watch
from mimir_ray.dataflow import Row
from tests.curation.local import curate_whole
from tests.curation.rendering import moving, save, shots
from tests.video.decoders import stopped_decoders

CONFIG = override(CurationConfig(), ["split=off", "files_per_shard=64"])


def table_rows(out: Path, name: str) -> list[Row]:
    table = outcome_table(str(out), name)
    return sorted((row for shard in table.shards() for row in rows_of(table, shard)), key=str)


def rows(out: Path, name: str) -> dict[str, Row]:
    return {row["clip_id"]: row for row in table_rows(out, name)}


def measured(out: Path) -> dict[str, Row]:
    table = stage_table(str(out), "measure")
    (shard,) = table.shards()
    return {row["clip_id"]: row for row in rows_of(table, shard)}


def paths(out: Path) -> dict[str, str]:
    table = outcome_table(str(out), "clips")
    (shard,) = table.shards()
    return {Path(row["path"]).name: row["clip_id"] for row in rows_of(table, shard)}


def test_a_file_that_joins_leaves_the_scores_of_the_others(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in "abc":
        save(source / f"{name}.mp4", moving(background=150 + 20 * "abc".index(name)))
    curate_whole([str(source)], str(out), CONFIG)
    before, names = measured(out), paths(out)

    save(source / "d.mp4", moving(background=240))
    (source / "a.mp4").unlink()
    save(source / "b.mp4", moving(background=100))
    summary = curate_whole([str(source)], str(out), CONFIG)
    now, renamed = measured(out), paths(out)
    assert summary.clips.ok == 3
    assert set(now) == set(renamed.values()), "and nothing of what is gone is left"
    assert now[names["c.mp4"]] == before[names["c.mp4"]], "measured once: even the seconds are the same"
    assert not {names["a.mp4"], names["b.mp4"]} & set(now)


def test_files_keep_their_scores_when_a_grown_corpus_is_cut_into_more_shards(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    few = override(CONFIG, ["files_per_shard=2"])
    for index in range(2):
        save(source / f"{index}.mp4", moving(background=120 + 20 * index))
    curate_whole([str(source)], str(out), few)
    before = measured(out)
    for index in range(2, 6):
        save(source / f"{index}.mp4", moving(background=120 + 20 * index))
    curate_whole([str(source)], str(out), few)
    table = stage_table(str(out), "measure")
    assert len(table.shards()) > 1
    now = {row["clip_id"]: row for shard in table.shards() for row in rows_of(table, shard)}
    assert len(now) == 6
    assert {clip_id: now[clip_id] for clip_id in before} == before, "measured once: even the seconds are the same"


def test_a_file_that_failed_gets_another_try(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    save(source / "a.mp4", moving())
    impatient = override(CONFIG, ["decode_timeout_s=0.2"])
    with stopped_decoders(source / "a.mp4"):
        assert curate_whole([str(source)], str(out), impatient).files.quarantined
    save(source / "b.mp4", moving(background=150))
    assert curate_whole([str(source)], str(out), CONFIG).clips.ok == 2


def test_scores_of_more_than_the_clip_are_not_inherited(tmp_path: Path) -> None:
    """What a caption was given may be for one that the file does not have any more."""
    out, row = str(tmp_path), {"clip_id": "a", "status": "ok", "reason": ""}
    numbers = ("motion", "black_area", "brightness", "black_frame_rate", "aesthetic_mean", "text_area")
    scores = dict.fromkeys((*numbers, "watermark_margin"), 0.5) | {"caption_scores": [0.3]}
    commit(stage_table(out, "split"), "new", [row])
    for stage in SCORES:
        commit(stage_table(out, stage), "old", [row | scores])
    inherit(out, "new", ["old"], list(SCORES))
    inherited = {stage for stage in SCORES if stage_table(out, stage).has("new")}
    assert inherited == set(SCORES) - {"agreement"}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are watched."""
    names: list[str] = []

    def watching(path: str, *rest: Any) -> Watched:
        names.append(Path(path).name)
        return watch(path, *rest)

    monkeypatch.setattr("mimir_ray.curation.split.watch", watching)
    return names


@pytest.mark.parametrize("split", ["{}", "off"])
def test_a_file_that_joins_does_not_make_the_others_be_watched_again(
    split: str, tmp_path: Path, watched: list[str]
) -> None:
    source, out, config = tmp_path / "in", tmp_path / "out", override(CONFIG, [f"split={split}"])
    save(source / "film.mp4", shots(70, 80, 10))
    save(source / "brief.mp4", shots(10))
    save(source / "b.mp4", moving())
    (source / "text.mp4").write_text("no video")
    curate_whole([str(source)], str(out), config)
    assert sorted(watched) == ["b.mp4", "brief.mp4", "film.mp4", "text.mp4"]
    before = rows(out, "clips")

    watched.clear()
    save(source / "c.mp4", moving(background=150))
    (source / "film.txt").write_text("A film with two scenes.")
    (source / "b.mp4").rename(source / "a.mp4")
    (source / "same.mp4").write_bytes((source / "film.mp4").read_bytes())
    joined = curate_whole([str(source)], str(out), config)
    assert sorted(watched) == ["c.mp4", "text.mp4"], "a failure gets another try"
    now = rows(out, "clips")
    renamed = {str(source / "b.mp4"): str(source / "a.mp4")}
    expected = {clip_id: row | {"path": renamed.get(row["path"], row["path"])} for clip_id, row in before.items()}
    assert {clip_id: now[clip_id] for clip_id in expected} == expected
    assert len(now) == len(before) + 1
    texts = {row["clip_id"]: row["text"] for row in table_rows(out, "captions")}
    assert {texts[key] for key, row in now.items() if row["path"].endswith("film.mp4")} == {"A film with two scenes."}
    assert {texts[key] for key, row in now.items() if row["path"].endswith("a.mp4")} == {"a"}

    alone = curate_whole([str(source)], str(tmp_path / "alone"), config)
    assert (alone.files, alone.clips) == (joined.files, joined.clips)
    assert (alone.shots, alone.short_shots) == (joined.shots, joined.short_shots)
    for name in ("videos", "clips", "captions"):
        assert table_rows(out, name) == table_rows(tmp_path / "alone", name), "as if it had been done at once"

    watched.clear()
    save(source / "e.mp4", moving(background=180))
    curate_whole([str(source)], str(out), config)
    assert sorted(watched) == ["e.mp4", "text.mp4"], "what has a duplicate is as well known as anything"


@pytest.mark.parametrize("split", ["{}", "off"])
def test_spans_that_a_list_gives_are_no_shots_and_shots_are_no_given_spans(
    split: str, tmp_path: Path, watched: list[str]
) -> None:
    config = override(CONFIG, [f"split={split}", "basic.min_frames=1"])
    film, other = save(tmp_path / "film.mp4", shots(70, 80)), tmp_path / "some.jsonl"
    other.write_text(f'{{"path": "{film}", "start": 0, "end": 3, "caption": "A beginning."}}')
    found = [curate_whole([str(film)], str(tmp_path / "out"), config).clips.inputs]
    for source in (other, film):
        curate_whole([str(source)], str(tmp_path / "out"), config)
        found.append(len(rows(tmp_path / "out", "clips")))
    assert found == ([2, 1, 2] if split == "{}" else [1, 1, 1])
    assert len(watched) == 3


def test_a_data_root_that_moves_with_its_videos_is_not_watched_again(tmp_path: Path, watched: list[str]) -> None:
    root, moved = tmp_path / "root", tmp_path / "moved"
    config = override(CONFIG, ["split={}"])
    save(root / "videos" / "film.mp4", shots(70, 80))
    save(root / "videos" / "b.mp4", moving())
    first = curate_whole([str(root / "videos")], str(root), config)
    root.rename(moved)
    watched.clear()
    again = curate_whole([str(moved / "videos")], str(moved), config)
    assert watched == []
    assert (again.files, again.clips) == (first.files, first.clips)
    assert all(Path(row["path"]).is_file() for row in rows(moved, "clips").values())
    write_report(str(moved))
    once_more = curate_whole([str(moved / "videos")], str(moved), config)
    assert once_more.shards_reused == once_more.shards
