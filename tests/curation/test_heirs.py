"""What is known of a clip stays known when the shard that it is in changes."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from mimir_ray.config import override
from mimir_ray.curation import CurationConfig
from mimir_ray.curation import measure as measuring
from mimir_ray.curation.tables import Row, outcome_table, rows_of, stage_table
from mimir_ray.video import VideoError
from tests.curation.local import curate_whole, measure_later
from tests.curation.rendering import moving, save

CONFIG = override(CurationConfig(), ["split=off", "files_per_shard=64"])


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


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_a_clip_that_failed_or_has_no_number_gets_another_try(
    nothing: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    save(source / "a.mp4", moving())
    measure_later(monkeypatch, "a.mp4")

    def hopeless(clips: Sequence[Row], config: CurationConfig) -> list[Row]:
        if nothing is None:
            raise VideoError("the store did not answer")
        return [scores | {"motion": nothing} for scores in measure(clips, config)]

    measure = measuring.measure_clips
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "measure_clips", hopeless)
        assert sum(curate_whole([str(source)], str(out), CONFIG).clips.quarantined.values()) == 1
    save(source / "b.mp4", moving(background=150))
    assert curate_whole([str(source)], str(out), CONFIG).clips.ok == 2
