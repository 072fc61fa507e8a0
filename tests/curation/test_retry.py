"""What could not be processed is tried again when that is asked for, and no score is computed twice."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mimir_ray.config import override
from mimir_ray.curation import CurationConfig, CurationSummary, curate
from mimir_ray.curation import measure as measuring
from mimir_ray.curation import split as splitting
from mimir_ray.curation.reuse import forget_failures
from mimir_ray.curation.tables import outcome_table, rows_of, stage_table
from mimir_ray.curation.watch import Watched, watch
from mimir_ray.dataflow import Row
from mimir_ray.video import VideoError
from tests.curation.local import LocalPipeline
from tests.curation.rendering import moving, save, shots
from tests.video.rendering import encode, spoil

CONFIG = override(CurationConfig(), ["split=off", "files_per_shard=2"])


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six clips; one that has a `.down` file beside it cannot be read."""
    folder = tmp_path / "corpus"
    for index in range(6):
        save(folder / f"{index}.mp4", moving(background=150 + 10 * index))

    def watched(path: str, *rest: Any, **options: Any) -> Watched:
        if Path(path).with_suffix(".down").exists():
            raise VideoError("the store did not answer")
        return watch(path, *rest, **options)

    monkeypatch.setattr(splitting, "watch", watched)
    monkeypatch.setattr(measuring, "watch", watched)
    monkeypatch.setattr("mimir_ray.curation.pipeline.pipeline", LocalPipeline)
    return folder


def curate_with_failures(corpus: Path, out: Path) -> CurationSummary:
    """A curation in which file 1 could not be read, and clip 4 not be measured when it was to be measured anew."""
    (corpus / "1.down").touch()
    curate([str(corpus)], str(out), override(CONFIG, ["measures.motion_fps=4"]))
    (corpus / "4.down").touch()
    return curate([str(corpus)], str(out), CONFIG, overwrite=True)


def measured(out: Path) -> dict[str, Row]:
    table = stage_table(str(out), "measure")
    return {row["clip_id"]: row for shard in table.shards() for row in rows_of(table, shard)}


def test_a_failure_is_tried_again_when_asked_for(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = curate_with_failures(corpus, out)
    assert first.files.quarantined == {"probe: the store did not answer": 1}
    assert first.clips.quarantined == {"measure: the store did not answer": 1}
    before = measured(out)
    for sign in corpus.glob("*.down"):
        sign.unlink()
    again = curate([str(corpus)], str(out), CONFIG)
    assert again.shards_reused == again.shards, "nothing is tried again unasked"
    retried = curate([str(corpus)], str(out), CONFIG, retry_quarantined=True)
    assert 0 < retried.shards_reused < retried.shards
    assert (retried.files.ok, retried.clips.ok) == (6, 6)
    kept = {clip_id: row for clip_id, row in before.items() if row["status"] == "ok"}
    assert len(kept) == 4
    assert all(row["seconds"] > 0 for row in kept.values())
    assert kept.items() <= measured(out).items(), "what was measured stays as it was, its seconds included"


def test_a_failure_that_lasts_is_quarantined_again(corpus: Path, tmp_path: Path) -> None:
    first = curate_with_failures(corpus, tmp_path / "out")
    retried = curate([str(corpus)], str(tmp_path / "out"), CONFIG, retry_quarantined=True)
    assert (retried.files, retried.clips) == (first.files, first.clips)


def test_a_run_that_was_killed_while_it_forgot_loses_nothing(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "out")
    first = curate_with_failures(corpus, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("mimir_ray.storage.Table.commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            forget_failures(out, ["measure"])
    assert outcome_table(out, "clips").manifest() is None
    assert curate([str(corpus)], out, CONFIG).clips == first.clips


def test_a_score_that_was_no_number_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        save(tmp_path / "in" / f"{index}.mp4", moving(background=150 + 20 * index))
    score, measure, calls = splitting._score, measuring.measure_clips, list[str]()

    def broken(clip: Row, watched: Watched) -> Row:
        return score(clip, watched) | ({"motion": float("nan")} if clip["path"].endswith("1.mp4") else {})

    def working(clips: Sequence[Row], config: CurationConfig) -> list[Row]:
        calls.extend(Path(clip["path"]).name for clip in clips)
        return measure(clips, config)

    monkeypatch.setattr("mimir_ray.curation.pipeline.pipeline", LocalPipeline)
    monkeypatch.setattr(splitting, "_score", broken)
    monkeypatch.setattr(measuring, "measure_clips", working)
    source, out = [str(tmp_path / "in")], str(tmp_path / "out")
    first = curate(source, out, CONFIG)
    assert first.clips.ok == 2
    reason = "measure: gave no number as motion, which a rule needs; --retry-quarantined tries again"
    assert first.clips.quarantined == {reason: 1}
    again = curate(source, out, CONFIG)
    assert (again.clips, again.shards_reused) == (first.clips, first.shards)
    assert curate(source, out, CONFIG, retry_quarantined=True).clips.ok == 3
    assert calls == ["1.mp4"]


def test_the_other_files_of_a_shard_are_not_watched_again(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, one_shard = str(tmp_path / "out"), override(CONFIG, ["files_per_shard=64"])
    (corpus / "1.down").touch()
    first = curate([str(corpus)], out, one_shard)
    (corpus / "1.down").unlink()
    names: list[str] = []
    whole = splitting.watch

    def watching(path: str, *rest: Any, **options: Any) -> Watched:
        names.append(Path(path).name)
        return whole(path, *rest, **options)

    monkeypatch.setattr(splitting, "watch", watching)
    again = curate([str(corpus)], out, one_shard, retry_quarantined=True)
    assert names == ["1.mp4"]
    assert (first.files.ok, again.files.ok, again.clips.ok) == (5, 6, 6)


def test_what_lies_behind_a_damage_costs_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode(tmp_path / "a.mp4", shots(70, 70, 70), options={"g": "10"})
    clips = [
        {"path": str(whole), "first_frame": first, "frames": frames} for first, frames in ((0, 70), (70, 40), (150, 60))
    ]
    scores = measuring.measure_clips(clips, CONFIG)
    spoil(whole, whole, 0.75)
    passes: list[str] = []
    monkeypatch.setattr(
        measuring, "watch", lambda path, *rest, **options: (passes.append(path), watch(path, *rest, **options))
    )
    rows = measuring.measure_clips(clips, CONFIG)
    assert passes == [str(whole)]
    assert rows[:2] == scores[:2]
    assert rows[2]["status"] == "quarantined"
    assert rows[2]["reason"].startswith("measure: damaged: decoding stops at frame")
