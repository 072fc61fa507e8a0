"""One pass over a video: its cuts, the spans that a list gives, where it stops, and what it does not bear."""

import json
import math
from pathlib import Path

import pytest

from mimir_ray.config import override
from mimir_ray.curation import CurationConfig
from mimir_ray.curation.config import Split
from mimir_ray.curation.measure import measure_clips
from mimir_ray.curation.spans import KnownSpans, ShotSpans
from mimir_ray.curation.tables import rows_of, stage_table
from mimir_ray.curation.watch import GRACE_S, check_pace, watch
from mimir_ray.dataflow import Row
from mimir_ray.video import Promise, ShotFinder, VideoError, read_shots
from tests.curation.local import SHARD, curate_here, curate_whole
from tests.curation.rendering import moving, save, shots
from tests.video.rendering import encode, spoil

CONFIG = CurationConfig()
ALL = CurationConfig.model_validate({"basic": {"min_frames": 1, "min_duration_s": 0.0}})


@pytest.mark.parametrize(("detector", "threshold"), [("adaptive", 3.0), ("content", 27.0)])
@pytest.mark.parametrize(
    ("lengths", "cuts"),
    [((20, 30, 25), [20, 50]), ((1, 20, 1), [1, 21]), ((40,), []), ((2, 20), [2]), ((20, 2), [20])],
)
def test_the_shots_are_those_of_the_film(
    detector: str, threshold: float, lengths: tuple[int, ...], cuts: list[int], tmp_path: Path
) -> None:
    path, split = save(tmp_path / "film.mp4", shots(*lengths)), Split(detector=detector, threshold=threshold)  # type: ignore[arg-type]
    found = watch(path, ShotSpans(split), ShotFinder(split.detector, threshold), CONFIG)
    alone = read_shots(path, detector=split.detector, threshold=threshold, min_shot_s=0.0, timeout_s=60)
    assert found.cuts == cuts
    assert [0, *cuts] == alone
    assert found.info is not None
    assert tuple(found.meter.times_s) == found.info.times_s


def test_a_video_that_is_damaged_in_the_middle_is_one_loss_and_the_next_one_is_read(tmp_path: Path) -> None:
    whole = encode(tmp_path / ".whole.mp4", shots(70, 80), options={"g": "10"})
    save(tmp_path / "in" / "good.mp4", moving())
    spoil(whole, tmp_path / "in" / "damaged.mp4", 0.6)
    videos, clips = curate_here([tmp_path / "in"], tmp_path / "out", CONFIG)
    fates = {Path(row["path"]).name: row["status"] for row in videos}
    assert fates == {"damaged.mp4": "quarantined", "good.mp4": "ok"}
    assert "damaged: decoding stops at frame" in videos[0]["reason"]
    assert [(Path(row["path"]).name, row["status"]) for row in clips] == [("good.mp4", "ok")]


def test_a_pass_stops_with_the_last_clip_and_the_next_video_is_read_from_its_start(tmp_path: Path) -> None:
    first, second = save(tmp_path / "1.mp4", shots(40, 40)), save(tmp_path / "2.mp4", shots(30, 30))
    for path in (first, second):
        known = KnownSpans([(5, 12), (3, 9)], in_seconds=False)
        found = watch(path, known, None, CONFIG, to_the_end=False)
        assert found.info is None
        assert known.found(len(found.meter.times_s)) == [(5, 12), (3, 9)]
        assert len(found.meter.times_s) == 13, "the frame after the last clip tells that it has ended"
        whole = watch(path, KnownSpans([(5, 12), (3, 9)], in_seconds=False), None, CONFIG)
        for span in ((5, 12), (3, 9)):
            assert found.meter.scores(*span) == whole.meter.scores(*span)


def test_clips_of_a_video_that_has_become_shorter_are_not_measured(tmp_path: Path) -> None:
    clip: Row = {"path": str(save(tmp_path / "a.mp4", moving(20))), "first_frame": 10, "frames": 15}
    (row,) = measure_clips([clip], CONFIG)
    assert row["status"] == "quarantined"
    assert row["reason"] == "measure: has 20 frames, of which the clip needs 25: it has changed since it was split"
    assert measure_clips([clip | {"frames": 10}], CONFIG)[0]["motion"] > 0


def test_what_is_beyond_a_limit_is_found_on_the_way_where_the_header_says_nothing(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.ts", shots(40))
    for setting, words in (
        ("limits.max_frames=30", r"has 31 frames, at most 30 are taken \(limits\.max_frames\)"),
        ("limits.max_duration_s=2", r"has 2\.\d s, at most 2\.0 are taken \(limits\.max_duration_s\)"),
    ):
        with pytest.raises(VideoError, match=words):
            watch(path, KnownSpans([(0, math.inf)], in_seconds=False), None, override(CONFIG, [setting]))


def test_a_pass_may_take_a_minute_and_so_much_for_each_second() -> None:
    check_pace(GRACE_S + 39, 2.0, CONFIG.limits)
    with pytest.raises(VideoError, match=r"took more than 100 s up to 2\.0 s of it.*\(limits\.seconds_per_second\)"):
        check_pace(GRACE_S + 41, 2.0, CONFIG.limits)


def test_who_refuses_what_the_header_promises_ends_the_pass(tmp_path: Path) -> None:
    def refuse(promise: Promise) -> None:
        raise VideoError(f"{promise.width_px} is too wide")

    with pytest.raises(VideoError, match="64 is too wide"):
        watch(save(tmp_path / "a.mp4", moving(5)), ShotSpans(Split()), None, CONFIG, refuse)
    assert watch(save(tmp_path / "b.mp4", moving(6)), ShotSpans(Split()), None, CONFIG).info is not None


def given(tmp_path: Path, *spans: dict[str, float | str]) -> Path:
    """A list that names spans of a film of three shots, 10 frames a second, 9 seconds long."""
    save(tmp_path / "film.mp4", shots(30, 30, 30), fps=10)
    rows = [json.dumps({"path": "film.mp4", **span}) for span in spans]
    (tmp_path / "some.jsonl").write_text("\n".join(rows))
    return tmp_path / "some.jsonl"


def test_given_spans_are_the_clips_and_no_shot_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimir_ray.curation.split.ShotFinder", None)
    listed = given(
        tmp_path,
        {"start": 1.0, "end": 2.0, "caption": "frames 10 to 19"},
        {"start": 1.05, "end": 2.05, "caption": "frames 11 to 20"},
        {"start": 2.5, "end": 4.5, "caption": "over a cut"},
        {"start": 8.0, "end": 60, "caption": "beyond the end"},
        {"start": 8.0, "caption": "to the end"},
        {"start": 0.99, "end": 1.99, "caption": "frames 10 to 19 as well"},
    )
    videos, clips = curate_here([listed], tmp_path / "out", ALL)
    assert [(row["status"], row["clips"], row["shots"]) for row in videos] == [("ok", 4, None)]
    split = rows_of(stage_table(str(tmp_path / "out"), "split"), SHARD)
    found = {(row["first_frame"], row["frames"]): [text["text"] for text in row["captions"]] for row in split}
    assert found == {
        (10, 10): ["frames 10 to 19 as well", "frames 10 to 19"],
        (11, 10): ["frames 11 to 20"],
        (25, 20): ["over a cut"],
        (80, 10): ["beyond the end", "to the end"],
    }
    assert {row["status"] for row in clips} == {"ok"}
    assert all(row["motion"] > 0 for row in clips)


def test_spans_duplicates_and_spans_that_are_wrong_are_all_accounted_for(tmp_path: Path) -> None:
    listed = given(
        tmp_path,
        {"start": 0, "end": 3, "caption": "a shot"},
        {"start": 20, "end": 30, "caption": "long after the end"},
        {"start": 4.51, "end": 4.59, "caption": "between two frames"},
    )
    (tmp_path / "same.mp4").write_bytes((tmp_path / "film.mp4").read_bytes())
    with listed.open("a") as lines:
        lines.write('\n{"path": "same.mp4"}\n{"path": "gone.mp4", "start": 0, "end": 1}\n')
    summary = curate_whole([str(listed)], str(tmp_path / "out"), override(ALL, ["basic.min_frames=30"]))
    files, clips = summary.files, summary.clips
    assert (files.inputs, files.ok, files.rejected, len(files.quarantined)) == (3, 1, {"duplicate": 1}, 1)
    assert (clips.inputs, clips.ok, clips.rejected) == (3, 1, {})
    assert clips.quarantined == {
        f"split: no frame begins in the span {span} that the list gives; the video lasts 9.00 s: mend the list": 1
        for span in ("20 to 30 s", "4.51 to 4.59 s")
    }
