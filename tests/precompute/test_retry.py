"""What another run tries again: what was away by itself, the rest when that is asked for, and all of it."""

import shutil
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from mimir_ray.config import override
from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute import PrecomputeSummary, precompute, render
from mimir_ray.precompute.outcomes import PASSING, Away, Rejected, Retry, failed, stays
from mimir_ray.precompute.rows import complete, survey
from mimir_ray.records import SCHEMAS
from mimir_ray.storage import Table
from mimir_ray.video import VideoError
from tests.precompute.world import CONFIG, alone, curated, file_of, rows_of, tiny_model

TABLES = ("latents", "t5_tokens", "llm_tokens")
NONE = dict.fromkeys(TABLES, 0)


@pytest.mark.parametrize(
    ("error", "status", "passing"),
    [
        (Away("x.mp4 is not there"), "quarantined", True),
        (PermissionError("no"), "quarantined", True),
        (ConnectionResetError("by peer"), "quarantined", True),
        (TimeoutError("storage"), "quarantined", True),
        (VideoError("ends after 3 of 65 frames"), "quarantined", False),
        (ValueError("an array is not finite in float16"), "quarantined", False),
        (ArithmeticError(), "quarantined", False),
        (Rejected("clip has 8 frames"), "rejected", False),
    ],
)
def test_only_what_is_no_property_of_the_row_is_tried_again_unasked(
    error: Exception, status: str, passing: bool
) -> None:
    row = failed(error)
    assert row["status"] == status
    assert row["reason"].startswith(PASSING) == passing
    assert stays(row, "nothing")
    assert stays(row, "passing") != passing
    assert stays(row, "quarantined") == (status == "rejected")
    assert not stays(row, "everything")


@pytest.mark.parametrize(
    ("retry", "again"),
    [("nothing", []), ("passing", ["away"]), ("quarantined", ["away", "broken"]), ("everything", None)],
)
def test_rows_that_are_not_tried_again_stay_as_they_are(retry: Retry, again: list[str] | None, tmp_path: Path) -> None:
    table = Table(str(tmp_path / "latents"))
    outcomes = {
        "away": failed(Away("no disk")),
        "broken": failed(VideoError("cut off")),
        "fine": {"status": "ok", "reason": ""},
        "short": failed(Rejected("8 frames")),
    }
    rows = [{"clip_id": clip} | outcome for clip, outcome in outcomes.items()]
    table.commit("shard", pa.Table.from_pylist(rows, schema=SCHEMAS["latents"]))
    seen: list[str] = []

    def encode(clips: list[str]) -> list[dict[str, str]]:
        seen.extend(clips)
        return [{"clip_id": clip, "status": "ok", "reason": ""} for clip in clips]

    tried, encoded = complete(table, "shard", [], [((clip,), clip) for clip in outcomes], encode, retry)
    expected = list(outcomes) if again is None else again
    assert seen == expected
    assert tried == encoded == len(expected)
    after = {row["clip_id"]: (row["status"], row["reason"]) for row in rows_of(tmp_path, "latents")}
    kept = {clip: (outcome["status"], outcome["reason"]) for clip, outcome in outcomes.items() if clip not in expected}
    assert after == kept | dict.fromkeys(expected, ("ok", ""))


def said(summary: PrecomputeSummary) -> str:
    console = Console(width=300, record=True, file=StringIO())
    console.print(render(summary))
    return console.export_text()


def outcomes_of(data: Path, name: str) -> list[tuple[str, str, str]]:
    """Clip, status and reason of each row; a batch of other clips rounds the rest otherwise."""
    return [(row["clip_id"], row["status"], row["reason"]) for row in rows_of(data, name)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_share_that_was_away_costs_nothing_once_it_is_back(model: ModelConfig, tmp_path: Path) -> None:
    data, config = curated(tmp_path / "data", shards=1), override(CONFIG, ["clips_per_shard=100"])
    shutil.move(data / "videos", tmp_path / "away")
    summary = precompute(str(data), model, config)
    assert summary.rows_tried == NONE | {"latents": 3}
    assert summary.rows_encoded == NONE
    assert summary.rows_per_s == 0
    assert sum(summary.passing.values()) == len(summary.passing) == 3
    assert summary.nothing.startswith("nothing could be encoded: 3 rows of latents, none of them ok, 1 because: ")
    assert str(data / "videos") in summary.nothing
    assert "failed for now: 3 clips, for 3 reasons such as a video that is away or has changed" in said(summary)
    assert "0 of 3 latents" in said(summary)

    shutil.move(tmp_path / "away", data / "videos")
    changed = data / "videos" / "clip-0-0.mp4"
    good = changed.read_bytes()
    changed.write_bytes(good[:-1] + b"!")
    summary = precompute(str(data), model, config)  # one has changed, one is broken
    assert summary.rows_tried == {"latents": 3, "t5_tokens": 2, "llm_tokens": 2}
    assert summary.rows_encoded == {"latents": 1, "t5_tokens": 2, "llm_tokens": 2}
    assert not summary.nothing
    (reason,) = summary.passing
    assert f"{changed} has changed since it was curated, from the content" in reason
    assert reason.startswith(PASSING)
    outcomes = {row["clip_id"]: (row["status"], row["reason"][:30]) for row in rows_of(data, "llm_tokens")}
    assert outcomes["clip-0-0"] == ("quarantined", f"t5_tokens: latents: {PASSING}"[:30])

    changed.write_bytes(good)
    summary = precompute(str(data), model, config)
    assert summary.rows_tried == summary.rows_encoded == {"latents": 1, "t5_tokens": 2, "llm_tokens": 2}
    assert {row["clip_id"] for row in rows_of(data, "llm_tokens") if row["status"] != "ok"} == {"clip-0-1"}
    assert "what else is quarantined stays so until --retry-quarantined tries it again" in said(summary)
    assert precompute(str(data), model, config).rows_tried == NONE
    summary = precompute(str(data), model, config, retry_quarantined=True)
    assert (summary.rows_tried, summary.rows_encoded) == (NONE | {"latents": 1}, NONE)

    before = {name: (outcomes_of(data, name), file_of(data, name, "shard-0")) for name in TABLES}
    summary = precompute(str(data), model, config, overwrite=True)
    assert summary.rows_tried == {"latents": 3, "t5_tokens": 4, "llm_tokens": 4}
    for name, (rows, file) in before.items():
        assert outcomes_of(data, name) == rows
        assert file_of(data, name, "shard-0") != file, "written anew"

    moved = tmp_path / "moved"  # with its videos, whose paths lead nowhere now; nothing has to be read again
    shutil.move(data, moved)
    assert precompute(str(moved), model, config).rows_tried == NONE


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
def test_an_overwrite_that_is_stopped_goes_on_and_loses_no_other_table(
    model: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = curated(tmp_path / "data", shards=2, clips_per_shard=2)
    precompute(str(data), model, CONFIG)
    latents = {shard: file_of(data, "latents", shard) for shard in ("shard-0", "shard-1")}
    other = override(CONFIG, ["answers=1"])

    def stop(done: int, shards: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        precompute(str(data), model, other, overwrite=True, progress=stop)
    assert "llm_tokens: 2 of its 2 shards are of another configuration; each is replaced when" in caplog.text
    summary = precompute(str(data), model, other, overwrite=True)  # the same command again
    assert summary.rows_tried["latents"] == summary.rows_tried["t5_tokens"] == 0
    assert {shard: file_of(data, "latents", shard) for shard in latents} == latents
    assert {len(row["answers"]) for row in rows_of(data, "llm_tokens") if row["status"] == "ok"} == {1}


def test_the_survey_sees_what_is_to_be_tried_again(tmp_path: Path) -> None:
    data, tables = tmp_path / "data", {name: Table(str(tmp_path / "data" / name)) for name in ("latents", "t5_tokens")}
    curated(data, shards=1, clips_per_shard=2)
    outcomes = {"clip-0-0": failed(Away("no disk")), "clip-0-1": failed(VideoError("cut off"))}
    for name in tables:
        rows = [
            {key: row[key] for key in ("clip_id", "kind", "text") if key in SCHEMAS[name].names}
            | outcomes[row["clip_id"]]
            | ({} if name == "latents" else {"reason": f"latents: {outcomes[row['clip_id']]['reason']}"})
            for row in rows_of(data, "clips" if name == "latents" else "captions")
            if row["clip_id"] in outcomes
        ]
        tables[name].commit("shard-0", pa.Table.from_pylist(rows, schema=SCHEMAS[name]))
    for retry, pending in (("nothing", []), ("passing", ["shard-0"]), ("quarantined", ["shard-0"])):
        found = survey(str(data), tables, [alone("shard-0")], retry)  # type: ignore[arg-type]
        assert found.pending == {"latents": pending, "t5_tokens": pending}
    broken = dict.fromkeys(outcomes, outcomes["clip-0-1"])
    rows = [{"clip_id": clip} | outcome for clip, outcome in broken.items()]
    tables["latents"].commit("shard-0", pa.Table.from_pylist(rows, schema=SCHEMAS["latents"]))
    found = survey(str(data), tables, [alone("shard-0")], "passing")
    assert found.pending == {"latents": [], "t5_tokens": ["shard-0"]}, "it carries a reason that no longer holds"
