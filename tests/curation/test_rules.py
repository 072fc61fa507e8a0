"""Each rule of appendix A at its threshold, just under it and just over it, on mp4 files."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from mimir_ray.config import UserError, override
from mimir_ray.curation import CurationConfig
from mimir_ray.curation import rules as rules_module
from mimir_ray.curation.rules import RULES, Rule, Rules, shortfalls
from mimir_ray.curation.sources import discover
from mimir_ray.curation.split import split_files
from mimir_ray.curation.tables import SCORES
from mimir_ray.curation.verdict import verdict
from mimir_ray.dataflow import Row
from tests.curation.rendering import blinking, half_black, moving, save

CONFIG = override(CurationConfig(), ["split=off"])


def judge(path: Path, config: CurationConfig = CONFIG) -> dict[str, str]:
    """Reasons by rule, for every rule that the file falls short of."""
    return {miss.rule: miss.reason for miss in shortfalls(row(path, config), Rules.of(config))}


def row(path: Path, config: CurationConfig = CONFIG) -> Row:
    """The clip that a file is."""
    made = split_files(discover([str(path)]).files, config)
    (clip,), (scores,) = made.clips, made.scores
    return clip | scores | verdict(clip | scores, [], Rules.of(config), ["measure"])


def test_a_plain_moving_clip_is_kept(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", moving())
    assert judge(path) == {}
    kept = row(path)
    assert (kept["status"], kept["reason"], kept["rule"]) == ("ok", "", "")


@pytest.mark.parametrize(("frames", "broken"), [(64, True), (65, False), (66, False)])
def test_frames(tmp_path: Path, frames: int, broken: bool) -> None:
    found = judge(save(tmp_path / "a.mp4", moving(frames)))
    assert found == ({"frames": "has 64 frames, at least 65 are needed"} if broken else {})


@pytest.mark.parametrize(("fps", "broken"), [(66, True), (65, False), (64, False)])
def test_duration(tmp_path: Path, fps: float, broken: bool) -> None:
    found = judge(save(tmp_path / "a.mp4", moving(), fps))
    assert found == ({"duration": "lasts 0.98 s, at least 1 s are needed"} if broken else {})


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (62, 64, "is too tall: 62x64 is 0.97 wide to 1 high, at least 1 is needed"),
        (64, 64, ""),
        (66, 64, ""),
        (126, 64, ""),
        (128, 64, ""),
        (130, 64, "is too wide: 130x64 is 2.03 wide to 1 high, at most 2 is allowed"),
    ],
)
def test_aspect(tmp_path: Path, width: int, height: int, reason: str) -> None:
    found = judge(save(tmp_path / "a.mp4", moving(height=height, width=width)))
    assert found == ({"aspect": reason} if reason else {})


def test_motion_is_excluded_at_the_limit_and_kept_above(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", moving())
    score = row(path)["motion"]
    assert score > 10 * CONFIG.basic.motion_epsilon
    at = override(CONFIG, [f"basic.motion_epsilon={score!r}"])
    assert list(judge(path, at)) == ["motion"]
    under = override(CONFIG, [f"basic.motion_epsilon={np.nextafter(score, 0)!s}"])
    assert judge(path, under) == {}


@pytest.mark.parametrize("level", [60, 128, 255])
def test_a_still_picture_has_no_motion_whatever_the_encoder_does(tmp_path: Path, level: int) -> None:
    still = np.repeat(moving(1, background=level), 65, axis=0)
    found = judge(save(tmp_path / "a.mp4", still))
    assert list(found) == ["motion"]
    assert found["motion"].startswith("stands still: motion ")


def test_opposite_motions_do_not_cancel(tmp_path: Path) -> None:
    one_way = moving(height=64, width=128)
    both_ways = one_way.copy()
    both_ways[:, 32:] = both_ways[:, 32:, ::-1]
    for video in (one_way, both_ways):
        assert row(save(tmp_path / "a.mp4", video))["motion"] > 100 * CONFIG.basic.motion_epsilon


@pytest.mark.parametrize(("columns", "broken"), [(62, False), (64, False), (66, True)])
def test_black_area(tmp_path: Path, columns: int, broken: bool) -> None:
    path = save(tmp_path / "a.mp4", half_black(columns))
    assert row(path)["black_area"] == pytest.approx(columns / 80, abs=1e-3)
    found = judge(path).get("black_area", "")
    assert found == ("is mostly black: 0.82 of its area, at most 0.8 is allowed" if broken else "")


def test_black_area_at_the_limit_is_exact(tmp_path: Path) -> None:
    assert row(save(tmp_path / "a.mp4", half_black(64)))["black_area"] == 0.8


@pytest.mark.parametrize(("grey", "broken"), [(50, True), (51, False), (52, False)])
def test_brightness(tmp_path: Path, grey: int, broken: bool) -> None:
    path = save(tmp_path / "a.mp4", np.full((65, 64, 64, 3), grey, np.uint8))
    assert row(path)["brightness"] == grey / 255
    found = judge(path).get("brightness", "")
    assert found == ("is too dark: brightness 0.196, at least 0.2 is needed" if broken else "")


@pytest.mark.parametrize(("black", "broken"), [(25, False), (26, False), (27, True)])
def test_black_frame_rate(tmp_path: Path, black: int, broken: bool) -> None:
    path = save(tmp_path / "a.mp4", blinking(black))
    assert row(path)["black_frame_rate"] == black / 65
    found = judge(path).get("black_frame_rate", "")
    assert found == ("has too many black frames: 0.42 of them, at most 0.4 is allowed" if broken else "")


@pytest.mark.parametrize(("rows", "black"), [(62, False), (63, True), (64, True)])
def test_a_black_frame_has_at_least_98_percent_of_black_pixels(tmp_path: Path, rows: int, black: bool) -> None:
    video = np.full((65, 64, 64, 3), 220, np.uint8)
    video[:, :rows] = 0
    assert row(save(tmp_path / "a.mp4", video))["black_frame_rate"] == float(black)  # 63/64 = 0.984, 62/64 = 0.969


@pytest.mark.parametrize(("grey", "share"), [(31, 1.0), (33, 0.0)])
def test_black_is_below_32_as_near_as_an_mp4_holds_it(tmp_path: Path, grey: int, share: float) -> None:
    assert row(save(tmp_path / "a.mp4", np.full((65, 64, 64, 3), grey, np.uint8)))["black_area"] == share


def test_a_rejected_row_keeps_every_score_and_the_first_rule(tmp_path: Path) -> None:
    rejected = row(save(tmp_path / "a.mp4", np.zeros((40, 64, 160, 3), np.uint8)))
    assert (rejected["status"], rejected["rule"]) == ("rejected", "frames")
    assert (rejected["motion"], rejected["black_area"], rejected["brightness"]) == (0, 1, 0)
    assert (rejected["value"], rejected["limit"]) == (40, 65)
    every = ["frames", "aspect", "motion", "black_area", "brightness", "black_frame_rate"]
    assert list(judge(tmp_path / "a.mp4")) == every


def test_a_reason_never_shows_a_value_that_would_pass() -> None:
    rules = Rules.of(CONFIG)
    clip = {"frames": 65, "duration_s": 0.99999, "width_px": 64, "height_px": 64, "motion": 0.1}
    assert shortfalls(clip, rules)[0].reason == "lasts 0.99999 s, at least 1 s are needed"
    dark = clip | {"duration_s": 1.0, "black_area": 0.8000001}
    assert "0.8000001 of its area" in shortfalls(dark, rules)[0].reason


CLIP = {"frames": 65, "duration_s": 4.0, "width_px": 64, "height_px": 64}


@pytest.mark.parametrize("motion", [None, math.nan, math.inf])
def test_a_score_that_is_still_to_come_or_no_number_is_held_against_no_rule(motion: float | None) -> None:
    assert shortfalls(CLIP | {"motion": motion}, Rules.of(CONFIG)) == []
    assert shortfalls({"frames": 65}, Rules.of(CONFIG)) == [], "not even the size is known"


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        ("hdr", "is HDR, mapped to SDR: curation.basic.allow_hdr=false excludes it"),
        ("interlaced", "is interlaced, deinterlaced here: curation.basic.allow_interlaced=false excludes it"),
        ("anamorphic", "has pixels that are not square, stretched here: curation.basic.allow_anamorphic=false "),
        ("rotated", "is stored turned or mirrored, set upright here: curation.basic.allow_rotated=false excludes it"),
    ],
)
def test_what_a_file_is_passes_unless_it_is_excluded(fact: str, reason: str) -> None:
    strict = Rules.of(override(CONFIG, [f"basic.allow_{fact}=false"]))
    for so in (True, False):
        assert shortfalls(CLIP | {fact: so}, Rules.of(CONFIG)) == []
        assert [missed.rule for missed in shortfalls(CLIP | {fact: so}, strict)] == [fact] * so
    tall_and_still = CLIP | {fact: True, "width_px": 32, "motion": 0.0}
    missed = shortfalls(tall_and_still, strict)
    assert [miss.rule for miss in missed] == ["aspect", fact, "motion"], "in the paper's order"
    assert missed[1].reason.startswith(reason)
    assert (missed[1].value, missed[1].limit) == (1.0, 0.0)


def test_every_rule_is_on_the_score_of_a_stage() -> None:
    stages = {rule.score: rule.stage for rule in RULES}
    assert {name: stages[name] for name in ("aspect", "hdr", "motion", "watermark_margin")} == {
        "aspect": "split",
        "hdr": "split",
        "motion": "measure",
        "watermark_margin": "watermark",
    }
    nobody = Rule("sharp", "sharpness", "at least", "basic.min_frames", "is not sharp")
    with pytest.raises(ValueError, match="the rule sharp is on 'sharpness', which no stage makes"):
        nobody.stage  # noqa: B018


def test_a_rule_on_a_score_that_no_stage_makes_fails_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SCORES, "text_area")
    again = importlib.util.spec_from_file_location("rules_again", rules_module.__file__)
    assert again is not None
    assert again.loader is not None
    module = importlib.util.module_from_spec(again)
    monkeypatch.setitem(sys.modules, "rules_again", module)
    with pytest.raises(ValueError, match="the rule text_area is on 'text_area', which no stage makes"):
        again.loader.exec_module(module)


def test_limits_out_of_order_are_refused() -> None:
    with pytest.raises(UserError, match=r"min_aspect 3\.0 is above max_aspect 2\.0"):
        override(CONFIG, ["basic.min_aspect=3.0"])
