"""The watermark question and captions through an engine beside the pipeline, on real Ray.

The engine is a stand-in that answers rows by what Ray would hand to vLLM; what is around it is the real thing.
"""

import io
import json
import math
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mimir_ray.config import UserError, override
from mimir_ray.curation import CurationConfig, curate
from mimir_ray.curation.asking import ScoreCollector
from mimir_ray.curation.models.questions import load_question, word_log_p
from mimir_ray.curation.models.scorers import seed_of
from mimir_ray.curation.models.vlm import word_ids
from mimir_ray.curation.stages import scoring_stages
from mimir_ray.curation.tables import outcome_table, rows_of, stage_table
from mimir_ray.vllm import TextEngine, TextEngineConfig
from tests.curation.models.tiny import tiny_vlm
from tests.curation.rendering import moving, save

ASKED = ("prompt", "images", "sampling")
CAPTION = "A square\n crosses a grey picture."


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlm(tmp_path_factory.mktemp("models") / "vlm")


@pytest.fixture(scope="module")
def config(vlm: Path) -> CurationConfig:
    asked = f"vlm: {{name: {vlm}}}, frames: 2, engine: vllm"
    settings = [
        *("split=off", "files_per_shard=2", "cpus_per_task=0.5", "look.max_watermark_margin=1"),
        f"watermark={{{asked}}}",
        f"recaption={{{asked}, temperature: 0.5, prompt: 'What do these {{frames}} frames show?'}}",
    ]
    return override(CurationConfig(), settings)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips that differ in their brightness, and a dark one that the rules reject before any model."""
    folder = tmp_path_factory.mktemp("corpus")
    for index in range(5):
        save(folder / f"{index}.mp4", moving(background=120 + 25 * index, width=96))
    save(folder / "dark.mp4", moving(background=45, square=90))
    return folder


def answered(row: dict[str, Any], yes: int, no: int, log: str, fails: bool) -> dict[str, Any]:
    """What an engine says: yes to the brightest clip alone; nothing about the clip of index 1, if it is to fail."""
    if row.get("error"):
        return {name: value for name, value in row.items() if name not in ASKED} | {"index": -1}
    stills = [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in row["images"]]
    index = round((float(stills[0][0, 0].mean()) - 120) / 25)
    sampling = json.loads(row["sampling"])
    seen = {"prompt": row["prompt"], "shape": [len(stills), *stills[0].shape], "sampling": sampling}
    with open(log, "a") as file:
        file.write(json.dumps(seen | {"clip_id": row["clip_id"], "index": index}) + "\n")
    answer = {name: value for name, value in row.items() if name not in ASKED} | {"index": index}
    if fails and index == 1:
        return answer | {"tokens": [], "text": "", "first_ids": [], "first_log_p": [], "error": "ValueError: too long"}
    sure = -0.1 if index == 4 else -5.0
    first = {yes: sure, no: -3.0, 0: -9.0} if sampling.get("logprobs") else {}
    text = {"tokens": [5, 6, 7], "text": CAPTION}
    return answer | text | {"first_ids": list(first), "first_log_p": list(first.values()), "error": ""}


def engine(config: TextEngineConfig, log: Path, fails: bool = False) -> TextEngine:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(config.model)
    (yes, *_), (no, *_) = word_ids(tokenizer, "yes"), word_ids(tokenizer, "no")
    said = partial(answered, yes=yes, no=no, log=str(log), fails=fails)
    return lambda dataset: dataset.repartition(2).map(said, num_cpus=0.1)  # rows of a shard do not stay together


def stage_rows(out: Path, name: str) -> dict[str, dict[str, Any]]:
    table = stage_table(str(out), name)
    return {row["clip_id"]: row for shard in table.shards() for row in rows_of(table, shard)}


def clips(out: Path) -> list[dict[str, Any]]:
    table = outcome_table(str(out), "clips")
    return sorted((row for shard in table.shards() for row in rows_of(table, shard)), key=lambda row: row["path"])


def asked(log: Path) -> Iterator[dict[str, Any]]:
    yield from map(json.loads, log.read_text().splitlines() if log.exists() else ())


@pytest.fixture(scope="module")
def curated(corpus: Path, config: CurationConfig, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A run in which the engine fails on one clip."""
    out = tmp_path_factory.mktemp("curated")
    curate([str(corpus)], str(out), config, engine=partial(engine, log=out / "asked.jsonl", fails=True))
    return out


def test_answers_become_the_scores_of_their_clips(curated: Path) -> None:
    zero, one, two, three, four, dark = clips(curated)
    assert [row["status"] for row in (zero, two, three)] == ["ok"] * 3
    assert zero["watermark"] is False
    assert zero["watermark_margin"] == pytest.approx(-2)
    assert zero["watermark_certainty"] == pytest.approx(math.exp(-5) + math.exp(-3))
    assert (four["watermark"], four["rule"]) == (True, "watermark")
    assert (dark["rule"], dark["watermark"]) == ("brightness", None)
    captions = stage_rows(curated, "recaption")
    assert set(captions) == {row["clip_id"] for row in (zero, two, three)}, "only what passed the question is described"
    for row in captions.values():
        assert (row["recaption"], row["recaption_tokens"]) == ("A square crosses a grey picture.", 3)
    assert (one["status"], one["stage"], one["error"]) == ("quarantined", "watermark", "ValueError")
    assert one["reason"] == "watermark: ValueError: too long"


def test_the_engine_is_asked_what_transformers_would_be(curated: Path, config: CurationConfig, corpus: Path) -> None:
    rows = list(asked(curated / "asked.jsonl"))
    questions = [row for row in rows if row["sampling"].get("logprobs")]
    captions = [row for row in rows if not row["sampling"].get("logprobs")]
    assert (len(questions), len(captions)) == (5, 3)
    assert all(row["shape"][:1] == [2] and row["shape"][2] == 96 for row in rows)
    assert config.watermark != "off"
    (prompt,) = {row["prompt"] for row in questions}
    marks = "<|vision_start|><|image_pad|><|vision_end|>"
    assert prompt == f"<|im_start|>user\n{marks * 2}{config.watermark.question}<|im_end|>\n<|im_start|>assistant\n"
    assert questions[0]["sampling"] == {"max_tokens": 1, "temperature": 0.0, "logprobs": 100}
    for row in captions:
        assert "What do these 2 frames show?" in row["prompt"]
        seed = seed_of(row["clip_id"])
        assert row["sampling"] == {"max_tokens": 256, "temperature": 0.5, "top_p": 0.9, "seed": seed}


@pytest.mark.slow
def test_what_failed_is_asked_again_when_told_so_and_nothing_else_is(
    corpus: Path, curated: Path, config: CurationConfig, tmp_path: Path
) -> None:
    log = tmp_path / "asked.jsonl"
    curate([str(corpus)], str(curated), config, engine=partial(engine, log=log))
    assert not list(asked(log))
    summary = curate([str(corpus)], str(curated), config, retry_quarantined=True, engine=partial(engine, log=log))
    assert summary.clips.ok == 4
    assert [row["index"] for row in asked(log)] == [1, 1]


@pytest.mark.slow
def test_a_clip_that_cannot_be_read_is_not_asked_about(
    corpus: Path, config: CurationConfig, tmp_path: Path, ray_session: None
) -> None:
    out, log = tmp_path / "out", tmp_path / "asked.jsonl"
    first = override(config, ["watermark=off", "recaption=off"])
    copied = tmp_path / "corpus"
    copied.mkdir()
    for file in corpus.glob("[01].mp4"):
        (copied / file.name).write_bytes(file.read_bytes())
    curate([str(copied)], str(out), first)
    stat = (copied / "0.mp4").stat()
    (copied / "0.mp4").write_bytes(b"\0" * stat.st_size)
    os.utime(copied / "0.mp4", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    summary = curate([str(copied)], str(out), config, engine=partial(engine, log=log))
    assert (summary.clips.ok, sum(summary.clips.quarantined.values())) == (1, 1)
    broken, _ = clips(out)
    assert broken["stage"] == "watermark"
    assert {row["index"] for row in asked(log)} == {1}


@pytest.mark.slow
def test_lost_answers_leave_their_shards_pending_and_are_asked_for_again(
    corpus: Path, config: CurationConfig, tmp_path: Path, ray_session: None
) -> None:
    def losing(config: TextEngineConfig) -> TextEngine:
        whole = engine(config, tmp_path / "first.jsonl")
        return lambda dataset: whole(dataset).filter(lambda row: row["index"] != 2)

    with pytest.raises(RuntimeError, match="run again to retry"):
        curate([str(corpus)], str(tmp_path / "out"), config, engine=losing)
    log = tmp_path / "second.jsonl"
    summary = curate([str(corpus)], str(tmp_path / "out"), config, engine=partial(engine, log=log))
    assert summary.clips.ok == 4
    assert summary.clips.rejected == {"brightness": 1, "watermark": 1}
    assert {row["index"] for row in asked(log)} < {0, 1, 2, 3, 4}, "shards that lost nothing are not asked about again"


def test_a_shard_is_committed_when_it_is_whole_and_an_answer_that_comes_twice_is_one(
    config: CurationConfig, tmp_path: Path
) -> None:
    (stage,) = [stage for stage in scoring_stages(config) if stage.name == "recaption"]
    collect, table = ScoreCollector(str(tmp_path), stage), stage_table(str(tmp_path), "recaption")
    row = {"shard": "one", "clips": 2, "failed": "", "error": "", "text": CAPTION, "tokens": [1, 2]}
    assert [collect(row | {"clip_id": clip_id}) for clip_id in "aa"] == [None, None]
    assert not table.has("one"), "what is asked of a shard is the same until it is whole"
    assert collect(row | {"clip_id": "b"}) == {"shard": "one"}
    assert set(stage_rows(tmp_path, "recaption")) == {"a", "b"}
    late = row | {"clip_id": "a", "failed": "ValueError", "error": "no answer the second time"}
    assert collect(late) == {"shard": "one"}
    assert {row["status"] for row in stage_rows(tmp_path, "recaption").values()} == {"ok"}
    nothing = {"shard": "two", "clips": 0, "failed": "", "clip_id": "", "error": "nothing to ask"}
    assert collect(nothing) == {"shard": "two"}
    assert table.has("two")


def test_a_model_that_cannot_be_asked_is_one_message(
    corpus: Path, config: CurationConfig, tmp_path: Path, ray_session: None
) -> None:
    mute = tiny_vlm(tmp_path / "mute", chat_template=False)
    unfit = override(config, [f"watermark.vlm.name={mute}"])
    never = partial(engine, log=tmp_path / "asked.jsonl")
    with pytest.raises(UserError, match="has no chat template"):
        curate([str(corpus)], str(tmp_path / "out"), unfit, engine=never)
    assert not (tmp_path / "asked.jsonl").exists()


def test_a_missing_vllm_is_told_before_anything_runs_and_only_where_it_is_needed(
    corpus: Path, curated: Path, config: CurationConfig, tmp_path: Path, ray_session: None
) -> None:
    with pytest.raises(UserError, match=r"pip install 'mimir-ray\[vllm\]'"):
        curate([str(corpus)], str(tmp_path / "out"), config)
    assert not list((tmp_path / "out").rglob("*.parquet"))
    stricter = override(config, ["look.max_watermark_margin=-100"])
    shutil.copytree(curated, tmp_path / "answered")
    summary = curate([str(corpus)], str(tmp_path / "answered"), stricter)
    assert summary.clips.rejected == {"brightness": 1, "watermark": 4}


def test_vllm_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match="engine vllm computes on GPUs"):
        override(CurationConfig(), ["watermark={engine: vllm, vlm: {name: x, device: cpu}}"])


def test_a_word_is_all_its_spellings_and_no_likelier_than_the_last_token_told() -> None:
    log_p = {1: -1.0, 2: -2.0, 3: -6.0}
    assert word_log_p(log_p, [1, 2, 9]) == pytest.approx(math.log(math.exp(-1) + math.exp(-2)))
    assert word_log_p(log_p, [8, 9]) == -6.0
    with pytest.raises(ValueError, match="NaN"):
        word_log_p({1: math.nan}, [1])
    with pytest.raises(ValueError, match="NaN"):
        word_log_p({}, [1])


def test_the_same_log_probabilities_are_the_same_scores_on_both_roads(vlm: Path, config: CurationConfig) -> None:
    from mimir_ray.curation.models.vlm import Vlm, Watermark

    assert config.watermark != "off"
    model = Vlm(config.watermark.vlm)
    frames = np.stack([moving(background=160, width=96)[index] for index in (0, 30)])
    (said,) = Watermark(config.watermark, model)([frames])
    log_p = model.first_token([frames], [config.watermark.question])[0]
    scores = load_question("watermark", config).read({"first_ids": range(len(log_p)), "first_log_p": log_p.tolist()})
    assert scores["watermark"] == said.yes
    assert scores["watermark_margin"] == pytest.approx(said.margin, abs=1e-5)
    assert scores["watermark_certainty"] == pytest.approx(said.certainty, abs=1e-5)
