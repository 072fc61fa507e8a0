"""What becomes of real videos, and whether a person would agree."""

from pathlib import Path

import pytest

from mimir_ray.config import override
from mimir_ray.curation import CurationConfig
from tests.curation.local import curate_here

CLIPS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "clips"

VERDICTS = {
    "arm_wrestling.mp4": "",
    "av1.mkv": "",
    "bigbuckbunny.mp4": "",
    "bikes.mp4": "is too wide: 640x272 is 2.35 wide to 1 high, at most 2 is allowed",
    "bt709_full_range.mp4": "has 30 frames, at least 65 are needed",
    "carphone.mp4": "",
    "h264_10bits.mp4": "has 30 frames, at least 65 are needed",
    "h265.mp4": "has 10 frames, at least 65 are needed",
    "human_action.avi": "",
    "part_0.mp4": "has 32 frames, at least 65 are needed",
    "scene_cuts.mp4": "is too wide: 1280x272 is 4.71 wide to 1 high, at most 2 is allowed",
}


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"no real clips in {CLIPS}")
def test_real_clips_pass_or_say_why_not(tmp_path: Path) -> None:
    _, rows = curate_here([CLIPS], tmp_path, override(CurationConfig(), ["split=off"]))
    assert {Path(row["path"]).name: row["reason"] for row in rows} == VERDICTS
    assert {row["status"] for row in rows} == {"ok", "rejected"}
