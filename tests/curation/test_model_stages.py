"""The stages with a model, on small models of the published classes, through the whole of curation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mimir_ray.config import UserError, override
from mimir_ray.curation import CurationConfig, curate
from mimir_ray.curation.report.findings import gather
from mimir_ray.curation.report.page import page
from mimir_ray.curation.stages import MODEL_STAGES
from mimir_ray.curation.tables import outcome_table, rows_of, stage_table
from tests.curation.local import SHARD, curate_here, curate_whole
from tests.curation.models.tiny import CLIP_WIDTH, tiny_clip, tiny_head, tiny_vlm
from tests.curation.rendering import moving, save


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> CurationConfig:
    """Every stage on; rules that random models cannot fall short of, but for the ones a test sets."""
    folder = tmp_path_factory.mktemp("models")
    clip, vlm = tiny_clip(folder / "clip"), tiny_vlm(folder / "vlm")
    head = tiny_head(folder / "head.pth", CLIP_WIDTH)
    weights = torch.load(head, weights_only=True)
    weights["layers.7.bias"] += 5  # scores from 1 to 10, as the published head gives them
    torch.save(weights, head)
    settings = [
        "split=off",
        "files_per_shard=3",
        "cpus_per_task=0.5",
        f"aesthetic={{clip: {{name: {clip}}}, head: {head}}}",
        "text_area={short_side_px: 128}",
        f"watermark={{vlm: {{name: {vlm}}}, frames: 2}}",
        f"recaption={{vlm: {{name: {vlm}}}, frames: 2, max_new_tokens: 12}}",
        f"agreement={{clip: {{name: {clip}}}}}",
        "look={min_aesthetic: 0, max_watermark_margin: 1000}",
        *(f"pools.{stage}.num_cpus=0.2" for stage in MODEL_STAGES),
    ]
    return override(CurationConfig(), settings)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for index in range(5):
        save(folder / f"{index}.mp4", moving(background=120 + 25 * index, width=96))
        (folder / f"{index}.txt").write_text(f"A square crosses picture {index}.")
    save(folder / "dark.mp4", moving(background=45, square=90))
    return folder


@pytest.fixture(scope="module")
def curated(corpus: Path, config: CurationConfig, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    out = tmp_path_factory.mktemp("curated")
    curate([str(corpus)], str(out), config)
    return out


def rows(out: Path, name: str) -> list[dict[str, Any]]:
    table = outcome_table(str(out), name)
    return sorted((row for shard in table.shards() for row in rows_of(table, shard)), key=str)


def scores(out: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in (out / "stages").rglob("*.parquet")}


def test_every_kept_clip_has_every_score_and_a_new_caption(curated: Path) -> None:
    kept = [row for row in rows(curated, "clips") if row["status"] == "ok"]
    assert len(kept) == 5
    for row in kept:
        for name in ("aesthetic_mean", "aesthetic_min", "text_area", "watermark", "watermark_margin"):
            assert row[name] is not None, name
        assert 0 < row["watermark_certainty"] <= 1
        assert row["aesthetic_min"] <= row["aesthetic_mean"]
    captions = rows(curated, "captions")
    for row in kept:
        own = {caption["kind"]: caption for caption in captions if caption["clip_id"] == row["clip_id"]}
        assert own["user"]["text"].startswith("A square crosses")
        assert -1 <= own["user"]["clip_score"] <= 1
        assert set(own) <= {"user", "long"}
    written = [row for stage in ["recaption"] for row in _stage(curated, stage)]
    assert all(row["recaption_tokens"] > 0 and row["seconds"] > 0 for row in written)


def test_the_whole_pipeline_says_what_the_stages_say_one_by_one(
    corpus: Path, curated: Path, config: CurationConfig, tmp_path: Path
) -> None:
    _, clips = curate_here([corpus], tmp_path, config)
    captions = sorted(rows_of(outcome_table(str(tmp_path), "captions"), SHARD), key=str)
    _close(sorted(clips, key=str), rows(curated, "clips"))
    _close(captions, rows(curated, "captions"))


def test_a_model_does_not_look_at_a_clip_that_falls_short_before(curated: Path) -> None:
    (dark,) = [row for row in rows(curated, "clips") if row["status"] == "rejected"]
    assert dark["rule"] == "brightness"
    assert dark["aesthetic_mean"] is dark["watermark"] is None
    assert len(_stage(curated, "measure")) == 6
    assert {stage: len(_stage(curated, stage)) for stage in MODEL_STAGES} == dict.fromkeys(MODEL_STAGES, 5)


def test_a_rule_that_changes_runs_the_last_step_alone(
    corpus: Path, curated: Path, config: CurationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, whole = scores(curated), rows(curated, "clips")
    margins = sorted(row["watermark_margin"] for row in whole if row["status"] == "ok")
    limit = (margins[1] + margins[2]) / 2
    stricter = override(config, [f"look.max_watermark_margin={limit!r}"])
    monkeypatch.setattr("mimir_ray.curation.pipeline.map_actors", None)  # no model may even be asked for
    summary = curate([str(corpus)], str(curated), stricter)
    assert summary.clips.rejected == {"brightness": 1, "watermark": 3}
    rejected = [row for row in rows(curated, "clips") if row["rule"] == "watermark"]
    assert {row["limit"] for row in rejected} == {limit}
    assert all(row["reason"].startswith("has a watermark: the model's log-odds for it are ") for row in rejected)
    assert curate([str(corpus)], str(curated), config).clips.ok == 5
    assert rows(curated, "clips") == whole
    assert scores(curated) == before


def test_a_looser_rule_scores_only_what_it_lets_in(corpus: Path, curated: Path, config: CurationConfig) -> None:
    old = {stage: _stage(curated, stage) for stage in MODEL_STAGES}
    summary = curate_whole([str(corpus)], str(curated), override(config, ["quality.min_brightness=0.1"]))
    assert summary.clips.ok == 6
    for stage, rows_before in old.items():
        now = _stage(curated, stage)
        assert len(now) == 6
        assert all(row in now for row in rows_before), f"{stage} was computed again"


def test_captions_that_break_a_rule_cost_the_clip_when_none_is_left(
    corpus: Path, config: CurationConfig, curated: Path
) -> None:
    strict = override(config, ["captions={kinds: [user], min_clip_score: 1.0}"])
    summary = curate_whole([str(corpus)], str(curated), strict)
    assert summary.clips.rejected == {"brightness": 1, "clip_score": 5}
    (sample,) = [sample for sample in gather(str(curated)).rejected if sample.rule == "clip_score"]
    assert (sample.total, len(sample.rows)) == (5, 5)
    assert "after clip score" in (html := page(gather(str(curated))))
    work = {work.name: work for work in gather(str(curated)).work}["recaption"]
    assert f"({work.tokens / work.seconds:,.1f} tokens/s)" in html
    assert work.tokens == sum(row["recaption_tokens"] for row in _stage(curated, "recaption"))
    reasons = [row["reason"] for row in rows(curated, "clips") if row["rule"] == "clip_score"]
    assert all(reason.startswith("no caption is left: the user one does not fit the clip") for reason in reasons)


def test_what_did_not_run_is_in_the_manifest(corpus: Path, tmp_path: Path) -> None:
    curate_whole([str(corpus / "0.mp4")], str(tmp_path), override(CurationConfig(), ["split=off"]))
    manifest = outcome_table(str(tmp_path), "clips").manifest()
    assert manifest is not None
    stages = manifest.config["stages"]
    assert {stage: stages[stage] for stage in MODEL_STAGES} == dict.fromkeys(MODEL_STAGES, "off")
    assert manifest.config["split"]["split"] == "off"


def test_a_model_that_is_not_there_is_said_before_anything_runs(corpus: Path, tmp_path: Path) -> None:
    broken = override(CurationConfig(), ["recaption={vlm: {name: /nowhere/model}}"])
    with pytest.raises(UserError, match=r"recaption\.vlm\.name: there is no model at /nowhere/model"):
        curate([str(corpus)], str(tmp_path), broken)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.usefixtures("ray_session")
def test_a_model_that_does_not_fit_is_one_message(corpus: Path, tmp_path: Path) -> None:
    clip, head = tiny_clip(tmp_path / "clip"), tiny_head(tmp_path / "head.pth", CLIP_WIDTH - 1)
    unfit = override(CurationConfig(), ["split=off", f"aesthetic={{clip: {{name: {clip}}}, head: {head}}}"])
    with pytest.raises(UserError, match=f"features of width {CLIP_WIDTH - 1}"):
        curate([str(corpus)], str(tmp_path / "out"), unfit)


def test_a_model_that_fits_no_clip_is_one_message_and_no_lost_shards(corpus: Path, tmp_path: Path) -> None:
    clip, head = tiny_clip(tmp_path / "clip"), tiny_head(tmp_path / "head.pth", CLIP_WIDTH)
    weights = load_file(clip / "model.safetensors")
    weights["visual_projection.weight"] += torch.nan
    save_file(weights, clip / "model.safetensors", metadata={"format": "pt"})
    settings = [f"aesthetic={{clip: {{name: {clip}, dtype: float16}}, head: {head}}}", "split=off"]
    with pytest.raises(UserError, match="computes numbers that do not fit float16; set dtype to bfloat16"):
        curate_whole([str(corpus)], str(tmp_path / "narrow"), override(CurationConfig(), settings))
    settings[0] = settings[0].replace("float16", "float32")
    summary = curate_whole([str(corpus)], str(tmp_path / "wide"), override(CurationConfig(), settings))
    assert (summary.clips.ok, sum(summary.clips.quarantined.values())) == (0, 5), "and a clip's own NaN is its own"


def _stage(out: Path, name: str) -> list[dict[str, Any]]:
    table = stage_table(str(out), name)
    return [row for shard in table.shards() for row in rows_of(table, shard)]


def _close(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Equal but for the last digits of what a model computes, which depend on the batch."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name, value in one.items():
            if isinstance(value, float):
                assert value == pytest.approx(other[name], abs=1e-4), name
            else:
                assert value == other[name], name
