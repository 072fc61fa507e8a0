"""What could not be processed is tried again when that is asked for, and no score is computed twice."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mimir_ray.config import override
from mimir_ray.curation import CurationConfig, curate
from mimir_ray.curation import measure as measuring
from mimir_ray.curation import split as splitting
from mimir_ray.curation.retry import forget_failures
from mimir_ray.curation.tables import Row, outcome_table, rows_of, stage_table
from mimir_ray.curation.watch import Watched
from mimir_ray.video import VideoError
from tests.curation.local import LocalPipeline, measure_later
from tests.curation.rendering import moving, save

CONFIG = override(CurationConfig(), ["split=off", "files_per_shard=2"])


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six clips; one of them cannot be read and another one not be measured, as long as its `.down` file is there."""
    folder = tmp_path / "corpus"
    for index in range(6):
        save(folder / f"{index}.mp4", moving(background=150 + 10 * index))
    for name in ("1", "4"):
        (folder / f"{name}.down").touch()
    watch, measure = splitting.watch, measuring.measure_clips

    def read(path: str, *arguments: Any) -> Watched:
        _fail_while(folder / "1.down", path)
        return watch(path, *arguments)

    def measured(clips: Sequence[Row], config: CurationConfig) -> list[Row]:
        _fail_while(folder / "4.down", clips[0]["path"])
        return measure(clips, config)

    monkeypatch.setattr(splitting, "watch", read)
    monkeypatch.setattr(measuring, "measure_clips", measured)
    measure_later(monkeypatch, "4.mp4")
    monkeypatch.setattr("mimir_ray.curation.pipeline.pipeline", LocalPipeline)
    return folder


def _fail_while(sign: Path, path: str) -> None:
    if sign.exists() and Path(path).stem == sign.stem:
        raise VideoError("the store did not answer")


def measured(out: Path) -> dict[str, Row]:
    table = stage_table(str(out), "measure")
    return {row["clip_id"]: row for shard in table.shards() for row in rows_of(table, shard)}


def test_a_failure_is_tried_again_when_asked_for(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = curate([str(corpus)], str(out), CONFIG)
    assert (sum(first.files.quarantined.values()), sum(first.clips.quarantined.values())) == (1, 1)
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
    assert kept.items() <= measured(out).items(), "what was measured stays as it was, its seconds included"


def test_a_failure_that_lasts_is_quarantined_again(corpus: Path, tmp_path: Path) -> None:
    first = curate([str(corpus)], str(tmp_path / "out"), CONFIG)
    retried = curate([str(corpus)], str(tmp_path / "out"), CONFIG, retry_quarantined=True)
    assert (retried.files, retried.clips) == (first.files, first.clips)


def test_a_run_that_was_killed_while_it_forgot_loses_nothing(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "out")
    first = curate([str(corpus)], out, CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr("mimir_ray.storage.Table.commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            forget_failures(out, ["measure"])
    assert outcome_table(out, "clips").manifest() is None
    assert curate([str(corpus)], out, CONFIG).clips == first.clips


def test_a_score_that_was_no_number_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        save(tmp_path / "in" / f"{index}.mp4", moving(background=150 + 20 * index))
    measure, calls = measuring.measure_clips, list[str]()

    def broken(clips: Sequence[Row], config: CurationConfig) -> list[Row]:
        return [scores | {"motion": float("nan")} for scores in measure(clips, config)]

    def working(clips: Sequence[Row], config: CurationConfig) -> list[Row]:
        calls.extend(Path(clip["path"]).name for clip in clips)
        return measure(clips, config)

    measure_later(monkeypatch, "1.mp4")
    monkeypatch.setattr("mimir_ray.curation.pipeline.pipeline", LocalPipeline)
    monkeypatch.setattr(measuring, "measure_clips", broken)
    source, out = [str(tmp_path / "in")], str(tmp_path / "out")
    first = curate(source, out, CONFIG)
    assert first.clips.ok == 2
    reason = "measure: gave no number as motion, which a rule needs; --retry-quarantined tries again"
    assert first.clips.quarantined == {reason: 1}
    monkeypatch.setattr(measuring, "measure_clips", working)
    again = curate(source, out, CONFIG)
    assert (again.clips, again.shards_reused) == (first.clips, first.shards)
    assert curate(source, out, CONFIG, retry_quarantined=True).clips.ok == 3
    assert calls == ["1.mp4"]
