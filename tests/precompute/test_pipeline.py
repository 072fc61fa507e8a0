"""The whole stage: once on Ray, killed and continued, and the rest in this process: accounting, refusing."""

import logging
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from mimir_ray.config import UserError, override
from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute import encode_in_memory, pipeline, precompute, render
from mimir_ray.precompute.actors import LLMEncoder, T5Encoder
from mimir_ray.precompute.rows import survey
from mimir_ray.records import SCHEMAS
from mimir_ray.storage import Table
from tests.precompute.world import (
    CONFIG,
    alone,
    copy_of,
    curated,
    file_of,
    ids_and_states,
    precompute_whole,
    regroup,
    rows_of,
    tiny_model,
)

TABLES = ("latents", "t5_tokens", "llm_tokens")
SHARDS = ["shard-0", "shard-1", "shard-2"]
CUTS = [alone(shard) for shard in SHARDS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_model(tmp_path_factory.mktemp("model"))


def tables_of(data: Path) -> dict[str, Table]:
    return {name: Table(str(data / name)) for name in TABLES}


def commit(data: Path, name: str, shard: str, rows: list[dict[str, Any]]) -> None:
    """As another run of curation or of precompute leaves a shard."""
    Table(str(data / name)).commit(shard, pa.Table.from_pylist(rows, schema=SCHEMAS[name]))


def encoded_here(data: Path, model: ModelConfig) -> dict[str, list[str]]:
    """Make what is pending in this process; returns the texts that the encoders were given, by table."""
    pending, seen = survey(str(data), tables_of(data), CUTS, "passing").pending, {}
    asked = {"t5_tokens": (T5Encoder, "encode"), "llm_tokens": (LLMEncoder, "answer")}
    assert not pending["latents"]
    for name, (encoder_class, method) in asked.items():
        encoder, seen[name] = encoder_class(str(data), model, CONFIG), list[str]()
        real = getattr(encoder.branch, method)

        def counted(texts: Sequence[str], *rest: Any, real: Any = real, name: str = name) -> Any:
            seen[name] += texts
            return real(texts, *rest)

        setattr(encoder.branch, method, counted)
        for shard in pending[name]:
            encoder(alone(shard).row() | {"predecessors": [], "retry": "passing", name: True})
    return seen


@pytest.fixture(scope="module")
def finished(model: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root whose precompute is finished."""
    root = curated(tmp_path_factory.mktemp("finished") / "data")
    precompute_whole(root, model)
    return root


@pytest.mark.usefixtures("ray_session")
def test_a_killed_run_ends_with_the_rows_of_an_uninterrupted_loop(
    finished: Path, model: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed at its first finished shard and continued, on Ray; how long it takes is said while it runs."""
    data = copy_of(finished, tmp_path, *TABLES)

    class Killed(Exception):
        pass

    def kill(done: int, shards: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        precompute(str(data), model, CONFIG, progress=kill)
    t5_tokens = Table(str(data / "t5_tokens"))
    t5_tokens.drop(t5_tokens.shards()[:1])  # a kill can leave any set of whole shards
    with caplog.at_level(logging.INFO, logger="mimir_ray"):
        summary = precompute(str(data), model, CONFIG)
    assert 0 < sum(summary.rows_encoded.values()) < 9 + 18 + 18
    for name in TABLES:
        assert rows_of(finished, name) == rows_of(data, name)
    said = [line for line in caplog.messages if "s left" in line]
    assert re.fullmatch(r"precompute: 3/3 shards, [\d.]+ shards/s, 0 s left; shard-\d", said[-1])
    assert [line.split("/")[0] for line in said] == [f"precompute: {done}" for done in range(4 - len(said), 4)]


def test_every_clip_and_caption_is_accounted_for(finished: Path, model: ModelConfig) -> None:
    summary = precompute_whole(finished, model, CONFIG)
    assert summary.clips == 9  # 3 shards of 3; the 3 that curation rejected are no inputs
    for name, inputs, lost in (("latents", 9, 1), ("t5_tokens", 18, 2), ("llm_tokens", 18, 2)):
        manifest = summary.tables[name]
        assert (manifest.inputs, manifest.ok, manifest.rejected, manifest.quarantined) == (
            inputs,
            inputs - lost,
            0,
            lost,
        )
        rows = rows_of(finished, name)
        assert len(rows) == inputs
        assert {row["clip_id"] for row in rows if row["status"] != "ok"} == {"clip-0-1"}
    assert {tuple(row["shape"]) for row in rows_of(finished, "latents") if row["status"] == "ok"} == {(3, 32, 8, 8)}
    assert {len(row["answers"]) for row in rows_of(finished, "llm_tokens") if row["status"] == "ok"} == {2}


def test_the_account_is_printed_by_table(finished: Path, model: ModelConfig) -> None:
    summary = precompute_whole(finished, model, CONFIG)
    for name, manifest in summary.tables.items():
        counts = summary.accounts[name]
        lost = sum(counts.rejected.values()), sum(counts.quarantined.values())
        assert (manifest.inputs, manifest.ok, manifest.rejected, manifest.quarantined) == (
            counts.inputs,
            counts.ok,
            *lost,
        )
    console = Console(width=160, record=True, file=StringIO())
    console.print(render(summary))
    said = console.export_text()
    (reason,) = summary.accounts["latents"].quarantined
    for words in ("latents", "llm_tokens", "encoded", "quarantined", "18", reason[:40], "all of it was there before"):
        assert words in said
    console.print(render(summary.model_copy(update={"shards_written": 2})))
    assert "no row was new, and 2 of the shards were put together anew" in console.export_text()
    some = summary.model_copy(
        update={
            "rows_tried": {"latents": 4, "t5_tokens": 2},
            "rows_encoded": {"latents": 1, "t5_tokens": 2},
            "seconds": 1.5,
        }
    )
    console.print(render(some))
    said = console.export_text()
    assert "1.5 s; of what it tried this run encoded 1 of 4 latents, 2 of 2 t5_tokens, 2 rows/s" in said
    assert "what else is quarantined stays so until --retry-quarantined tries it again" in said
    assert "failed for now" not in said


def test_a_broken_clip_is_quarantined_with_a_reason_that_its_captions_carry(finished: Path) -> None:
    (reason,) = {row["reason"] for row in rows_of(finished, "latents") if row["status"] == "quarantined"}
    assert reason
    assert "Error" not in reason  # words for a person
    assert {row["reason"] for row in rows_of(finished, "t5_tokens")} == {"", f"latents: {reason}"}
    assert {row["reason"] for row in rows_of(finished, "llm_tokens")} == {"", f"t5_tokens: latents: {reason}"}


def test_a_finished_stage_does_nothing(finished: Path, model: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "load_t5_tokenizer", lambda model: pytest.fail("captions are tokenized again"))
    before = {path: path.stat().st_mtime_ns for path in finished.glob("*/*.parquet")}
    summary = precompute_whole(finished, model, CONFIG)
    assert summary.rows_encoded == dict.fromkeys(TABLES, 0)
    assert {path: path.stat().st_mtime_ns for path in finished.glob("*/*.parquet")} == before


def test_other_answers_leave_latents_and_t5_tokens_alone(finished: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = copy_of(finished, tmp_path)
    config = CONFIG.model_copy(update={"answers": 1})
    with pytest.raises(UserError, match=r"answers was 2 and is now 1.*--overwrite"):
        precompute_whole(data, model, config)
    summary = precompute_whole(data, model, config, overwrite=True)
    assert summary.rows_encoded == {"latents": 0, "t5_tokens": 0, "llm_tokens": 16}  # 2 were carried over
    firsts = [row["answers"][:1] for row in rows_of(finished, "llm_tokens") if row["status"] == "ok"]
    assert [row["answers"] for row in rows_of(data, "llm_tokens") if row["status"] == "ok"] == firsts


def test_rows_that_were_carried_over_are_encoded_when_their_clip_is_mended(finished: Path, tmp_path: Path) -> None:
    data = copy_of(finished, tmp_path)
    tables = tables_of(data)
    tables["latents"].drop(["shard-0", "shard-1"])  # only shard-0 had a broken clip
    pending = {"latents": ["shard-0", "shard-1"], "t5_tokens": ["shard-0"], "llm_tokens": ["shard-0"]}
    assert survey(str(data), tables, CUTS, "passing").pending == pending
    rows = Table(str(finished / "latents")).read("shard-0").to_pylist()
    whole = next(row for row in rows if row["status"] == "ok")
    mended = [row if row["status"] == "ok" else whole | {"clip_id": row["clip_id"]} for row in rows]
    commit(data, "latents", "shard-0", mended)  # and then the driver was killed
    pending = {"latents": ["shard-1"], "t5_tokens": ["shard-0"], "llm_tokens": ["shard-0"]}
    assert survey(str(data), tables, CUTS, "passing").pending == pending


def test_shards_that_curation_judged_anew_are_pending_and_stay_until_they_are_replaced(
    finished: Path, tmp_path: Path
) -> None:
    data = copy_of(finished, tmp_path)
    tables = tables_of(data)
    found = survey(str(data), tables, CUTS, "passing")
    assert found.pending == {name: [] for name in TABLES}
    assert found.inputs == {"latents": 9, "t5_tokens": 18, "llm_tokens": 18}
    rows = Table(str(data / "clips")).read("shard-1").to_pylist()
    rows[-1] |= {"status": "ok", "reason": "", "rule": ""}  # what was rejected is kept now
    commit(data, "clips", "shard-1", rows)
    texts = Table(str(data / "captions")).read("shard-2").to_pylist()
    texts[0]["text"] = "another text"
    commit(data, "captions", "shard-2", texts)
    assert survey(str(data), tables, CUTS, "passing").pending == {
        "latents": ["shard-1"],
        "t5_tokens": ["shard-1", "shard-2"],
        "llm_tokens": ["shard-1", "shard-2"],
    }
    assert tables["latents"].shards() == SHARDS


def test_a_shard_that_cannot_be_read_is_pending(finished: Path, tmp_path: Path) -> None:
    data = copy_of(finished, tmp_path)
    (data / "t5_tokens" / "shard-1.parquet").write_bytes(b"not parquet")
    pending = survey(str(data), tables_of(data), CUTS, "passing").pending
    assert pending == {"latents": [], "t5_tokens": ["shard-1"], "llm_tokens": []}


def test_a_new_caption_is_the_only_one_that_is_encoded(finished: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = copy_of(finished, tmp_path)
    latents = file_of(data, "latents", "shard-2")
    texts = Table(str(data / "captions")).read("shard-2").to_pylist()
    gone, added = texts[0]["text"], "a yellow square rolls up"
    texts[0]["text"] = added
    commit(data, "captions", "shard-2", texts)
    before = {name: rows_of(data, name) for name in TABLES}
    assert encoded_here(data, model) == {"t5_tokens": [added], "llm_tokens": [added, added]}  # two answers
    assert file_of(data, "latents", "shard-2") == latents
    for name in ("t5_tokens", "llm_tokens"):
        after = rows_of(data, name)
        assert [row["text"] for row in after if row not in before[name]] == [added]
        assert [(row["clip_id"], row["text"]) for row in before[name] if row not in after] == [("clip-2-0", gone)]
    summary = precompute_whole(data, model, CONFIG)
    assert summary.rows_encoded == dict.fromkeys(TABLES, 0)
    assert {name: manifest.inputs for name, manifest in summary.tables.items()} == {
        "latents": 9,
        "t5_tokens": 18,
        "llm_tokens": 18,
    }


def test_a_clip_that_comes_and_one_that_goes_leave_the_others_alone(
    finished: Path, model: ModelConfig, tmp_path: Path
) -> None:
    data = copy_of(finished, tmp_path)
    rows = Table(str(data / "clips")).read("shard-0").to_pylist()
    assert [row["clip_id"] for row in rows] == ["clip-0-0", "clip-0-1", "clip-0-2", "clip-0-3"]
    rows[0] |= {"status": "rejected", "reason": "another rule", "rule": "motion"}
    rows[-1] |= {"status": "ok", "reason": "", "rule": ""}
    commit(data, "clips", "shard-0", rows)
    before = {name: rows_of(data, name) for name in TABLES}
    summary = precompute_whole(data, model, CONFIG)
    # The clip that came; the broken one stays as it is, and its captions are carried over again.
    assert summary.rows_tried == summary.rows_encoded == {"latents": 1, "t5_tokens": 2, "llm_tokens": 2}
    for name in TABLES:
        after = rows_of(data, name)
        assert {row["clip_id"] for row in after if row not in before[name]} == {"clip-0-3"}
        assert {row["clip_id"] for row in before[name] if row not in after} == {"clip-0-0"}
        assert summary.tables[name].inputs == len(after) == len(before[name])


def test_shards_of_other_names_inherit_the_rows_of_their_files(
    finished: Path, model: ModelConfig, tmp_path: Path
) -> None:
    """As when a file joins a bucket, buckets are split, and other sizes are asked for: nothing is encoded again."""
    data, config = copy_of(finished, tmp_path), override(CONFIG, ["clips_per_shard=3"])
    regroup(data, ["clips", "captions", *TABLES], {"00000-kept": [2], "00001-old": [0, 1]})
    assert precompute_whole(data, model, config).rows_encoded == dict.fromkeys(TABLES, 0)
    regroup(data, ["clips", "captions"], {"00000-kept": [2], "00001-new": [0], "00003-new": [1]})
    kept = {name: file_of(data, name, "00000-kept") for name in TABLES}
    before = {name: ids_and_states(data, name) for name in TABLES}

    def kill(done: int, shards: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        precompute_whole(data, model, config, progress=kill)
    assert all("00001-old" in Table(str(data / name)).shards() for name in TABLES)
    summary = precompute_whole(data, model, config)
    assert summary.rows_tried == dict.fromkeys(TABLES, 0)
    for name in TABLES:
        assert Table(str(data / name)).shards() == ["00000-kept", "00001-new", "00003-new"]
        assert ids_and_states(data, name) == before[name]
        assert file_of(data, name, "00000-kept") == kept[name]
    summary = precompute_whole(data, model, override(CONFIG, ["clips_per_shard=100"]))
    assert summary.shards_written == 1
    assert summary.rows_tried == dict.fromkeys(TABLES, 0)
    assert all(ids_and_states(data, name) == before[name] for name in TABLES)
    assert {name: manifest.shards for name, manifest in summary.tables.items()} == dict.fromkeys(TABLES, 1)


def test_another_template_makes_llm_tokens_alone(finished: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = copy_of(finished, tmp_path)
    asked = model.model_copy(update={"language": model.language.model_copy(update={"question": "describe {prompt}"})})
    before = {(name, shard): file_of(data, name, shard) for name in TABLES for shard in SHARDS}
    summary = precompute_whole(data, asked, CONFIG, overwrite=True)
    assert summary.rows_encoded == {"latents": 0, "t5_tokens": 0, "llm_tokens": 16}
    changed = {place for place, file in before.items() if file_of(data, *place) != file}
    assert changed == {("llm_tokens", shard) for shard in SHARDS}


def test_clips_of_several_sizes_lie_in_one_table(finished: Path, model: ModelConfig, tmp_path: Path) -> None:
    data = copy_of(finished, tmp_path)
    rows = Table(str(data / "clips")).read("shard-1").to_pylist()
    rows[0] |= {"width_px": 96, "height_px": 64}
    commit(data, "clips", "shard-1", rows)
    config = override(CONFIG, ["buckets=[{num_frames: 9, height: 64, width: 96}]", "vae_tiling=true"])
    with pytest.raises(UserError, match=r"sizes was .* and is now"):
        precompute_whole(data, model, config)
    summary = precompute_whole(data, model, config, overwrite=True)
    assert summary.rows_tried == {"latents": 9, "t5_tokens": 0, "llm_tokens": 0}
    assert summary.rows_encoded == {"latents": 8, "t5_tokens": 0, "llm_tokens": 0}
    shapes = {row["clip_id"]: row["shape"] for row in rows_of(data, "latents") if row["status"] == "ok"}
    assert shapes.pop("clip-1-0") == [3, 32, 8, 12]
    assert set(map(tuple, shapes.values())) == {(3, 32, 8, 8)}


def test_captions_that_are_cut_are_counted_where_they_are_encoded(
    finished: Path, model: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = copy_of(finished, tmp_path, "llm_tokens")
    texts = Table(str(data / "captions")).read("shard-2").to_pylist()
    texts[0]["text"] = " ".join(["red"] * 300)
    commit(data, "captions", "shard-2", texts)
    monkeypatch.setattr(pipeline, "load_t5_tokenizer", lambda model: pytest.fail("the driver tokenizes"))
    only_t5 = model.model_copy(update={"llm": None})
    for _ in range(2):
        truncated = precompute_whole(data, only_t5, CONFIG).truncated
        assert (truncated.captions, truncated.longest) == (1, 301)


def test_what_cannot_run_is_refused_before_anything_starts(finished: Path, model: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not curated; name what `mimir curate"):
        precompute(str(tmp_path / "nothing"), model, CONFIG)
    with pytest.raises(UserError, match="num_frames=13"):
        precompute(str(finished), model, CONFIG.model_copy(update={"num_frames": 13}))
    for encode in (precompute, encode_in_memory):
        with pytest.raises(UserError, match="height=40 must be a positive multiple of 16"):
            encode(str(finished), model, override(CONFIG, ["buckets=[{num_frames: 9, height: 40, width: 64}]"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no model_index\.json"):
        precompute(str(finished), model.model_copy(update={"base": str(tmp_path / "empty")}), CONFIG)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_shard_that_cannot_be_encoded_is_named_and_the_others_are_kept(
    finished: Path, model: ModelConfig, tmp_path: Path
) -> None:
    data = copy_of(finished, tmp_path, "llm_tokens")
    (data / "captions" / "shard-1.parquet").write_bytes(b"not parquet")
    with pytest.raises(RuntimeError, match=r"llm_tokens: shard-1 \(1 in all\).*run again"):
        precompute(str(data), model, CONFIG)
    assert Table(str(data / "llm_tokens")).shards() == ["shard-0", "shard-2"]
