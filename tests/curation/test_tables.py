"""The tables of a curation: their versions, a score that is new, and a data root that is moved."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from mimir_ray.config import UserError, override
from mimir_ray.curation import CurationConfig, losses, write_report
from mimir_ray.curation import measure as measuring
from mimir_ray.curation import tables as tables_module
from mimir_ray.curation.tables import SCORES, commit, known_clips, outcome_table, rows_of, scan, stage_table
from mimir_ray.dataflow import Row
from mimir_ray.storage import join, read_json, write_json
from tests.curation.local import curate_whole
from tests.curation.rendering import moving, save

CONFIG = override(CurationConfig(), ["split=off", "files_per_shard=2"])
S3 = "s3://b/data?endpoint_override=http://x:1"


def measured_at(out: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (out / "stages" / "measure").glob("*.parquet")}


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The clips that are measured by themselves, and not on the way of `split`."""
    calls: list[str] = []
    measure = measuring.measure_clips

    def counting(clips: Sequence[Row], config: CurationConfig) -> list[Row]:
        calls.extend(clip["path"] for clip in clips)
        return [scores | {"sharpness": 0.5} for scores in measure(clips, config)]

    monkeypatch.setattr(measuring, "measure_clips", counting)
    return calls


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for index in range(3):
        save(tmp_path / "corpus" / f"{index}.mp4", moving(background=150 + 20 * index))
    return tmp_path / "corpus"


def test_a_new_score_makes_its_stage_stale_and_no_other(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "out", counted(monkeypatch)
    schema = SCORES["measure"]
    curate_whole([str(corpus)], str(out), CONFIG)
    assert calls == []
    split = {file: file.stat().st_mtime_ns for file in (out / "stages" / "split").glob("*.parquet")}
    monkeypatch.setitem(SCORES, "measure", schema.insert(1, pa.field("sharpness", pa.float64())))
    told = r"table measure, of version 3, with other columns: sharpness is new\. Pass --overwrite"
    with pytest.raises(UserError, match=told):
        curate_whole([str(corpus)], str(out), CONFIG)
    assert len(measured_at(out)) > 0, "nothing is lost by asking"
    assert curate_whole([str(corpus)], str(out), CONFIG, overwrite=True).clips.ok == 3
    assert len(calls) == 3, "measured again, though neither configuration nor files have changed"
    assert {row["sharpness"] for rows in stage_table(str(out), "measure").scan() for row in rows.to_pylist()} == {0.5}
    assert {file: file.stat().st_mtime_ns for file in split} == split, "what was split stays"


@pytest.mark.parametrize("stage", ["measure", "split"])
def test_a_new_version_of_a_stage_is_refused_and_made_anew(
    stage: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "out", counted(monkeypatch)
    curate_whole([str(corpus)], str(out), CONFIG)
    monkeypatch.setitem(tables_module.STAGE_VERSIONS, stage, 4)
    with pytest.raises(UserError, match=rf"holds version 3 of the table {stage}, and this mimir makes version 4"):
        curate_whole([str(corpus)], str(out), CONFIG)
    again = curate_whole([str(corpus)], str(out), CONFIG, overwrite=True)
    assert (again.clips.ok, again.shards_reused) == (3, 0)
    assert len(calls) == (3 if stage == "measure" else 0), "clips that are the same keep their scores"


def test_tables_of_an_earlier_version_are_refused_with_the_remedy(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    curate_whole([str(corpus)], str(out), CONFIG)
    for run in out.rglob("_run.json"):
        held = read_json(run)
        write_json(run, {name: value for name, value in held.items() if name != "columns"} | {"schema_version": 2})
    with pytest.raises(UserError, match=r"version 2 of the table \w+, and this mimir makes version 3.*--overwrite"):
        curate_whole([str(corpus)], str(out), CONFIG)
    assert curate_whole([str(corpus)], str(out), CONFIG, overwrite=True).clips.ok == 3


def test_a_shard_whose_scores_are_gone_is_judged_by_new_ones(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "out", counted(monkeypatch)
    curate_whole([str(corpus)], str(out), CONFIG)
    table = stage_table(str(out), "measure")
    gone = table.shards()[0]
    clips = len(rows_of(table, gone))
    (out / "stages" / "measure" / f"{gone}.parquet").unlink()
    curate_whole([str(corpus)], str(out), CONFIG)
    assert len(calls) == clips > 0
    assert table.shards() == outcome_table(str(out), "clips").shards()


def test_a_data_root_that_is_moved_takes_its_paths_along(corpus: Path, tmp_path: Path) -> None:
    root, moved = tmp_path / "root", tmp_path / "stages"  # a name that a folder in a data root has too
    shutil.copytree(corpus, root / "media")
    (root / "media" / "text.mp4").write_text("no video")
    outside = save(tmp_path / "elsewhere" / "dark.mp4", moving(background=45, square=90))
    curate_whole([str(root / "media"), str(outside)], str(root), CONFIG)
    root.rename(moved)
    expected = {str(moved / "media" / name) for name in ("0.mp4", "1.mp4", "2.mp4", "text.mp4")} | {str(outside)}
    videos = outcome_table(str(moved), "videos")
    assert {row["path"] for rows in scan(videos, ["path"]) for row in rows.to_pylist()} == expected
    clips = outcome_table(str(moved), "clips")
    found = [row for shard in clips.shards() for row in rows_of(clips, shard)]
    assert {row["path"] for row in found} == expected - {str(moved / "media" / "text.mp4")}
    assert all(Path(row["path"]).is_file() for row in found)
    split = [row for shard in clips.shards() for row in known_clips(str(moved), shard, ["measure"])]
    assert sorted(row["path"] for row in split) == sorted(row["path"] for row in found)
    assert {loss.path for loss in losses(str(moved))} == {str(moved / "media" / "text.mp4"), str(outside)}
    html = Path(write_report(str(moved))).read_text()
    assert html.count("<img") == 3 * 4
    assert str(moved / "media" / "1.mp4") in html
    assert "cannot be read any more" not in html


@pytest.mark.parametrize("root", ["/data", "/data/stages", S3, "s3://b"])
def test_paths_are_stored_relative_to_the_data_root(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: dict[str, pa.Table] = {}
    monkeypatch.setattr("mimir_ray.storage.Table.commit", lambda self, shard, rows: stored.update({self.uri: rows}))
    monkeypatch.setattr("mimir_ray.storage.Table.read", lambda self, shard, columns=None: stored[self.uri])
    inside, outside = join(root, "media", "a b.mp4"), "s3://other/b.mp4"
    for table in (outcome_table(root, "videos"), outcome_table(root, "clips"), stage_table(root, "split")):
        commit(table, "s", [{"path": inside}, {"path": outside}, {"path": None}])
        assert stored[table.uri]["path"].to_pylist() == ["media/a b.mp4", outside, None]
        assert [row["path"] for row in rows_of(table, "s")] == [inside, outside, None]


def test_a_table_knows_what_it_holds() -> None:
    split = stage_table("/data", "split")
    assert (split.name, split.version) == ("split", 3)
    assert replace(split).schema == tables_module.SPLIT_SCHEMA
    assert {"size_bytes", "first_frame", "times_s", "hdr"} < set(tables_module.SPLIT_SCHEMA.names)
