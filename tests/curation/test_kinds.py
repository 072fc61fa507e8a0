"""Files of the kinds that people have, through the whole of curation: their facts, rules on them, their pictures."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mimir_ray.config import override
from mimir_ray.curation import CurationConfig
from mimir_ray.curation.models.scorers import sampled_frames
from mimir_ray.curation.report.stills import stills
from mimir_ray.curation.tables import outcome_table, rows_of
from mimir_ray.dataflow import Row
from mimir_ray.storage import LatestCopy
from mimir_ray.video import read_frames
from tests.curation.local import curate_whole
from tests.curation.rendering import Video, moving
from tests.video.rendering import encode

CONFIG = CurationConfig()
PQ = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
PLAIN = {"hdr": False, "interlaced": False, "anamorphic": False, "rotated": False}
UNEVEN_MS = [int(time_ms) for time_ms in np.cumsum([0, *[20, 90, 40, 100] * 20])][:70]


def video(shade: int, height: int = 64, width: int = 96) -> Video:
    return moving(70, height, width, background=140 + shade)


def two_cameras(path: Path, videos: Sequence[Video]) -> None:
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=16) for _ in videos]
        for stream, pixels in zip(streams, videos, strict=True):
            stream.height, stream.width = pixels.shape[1:3]
        for index in range(len(videos[0])):
            for stream, pixels in zip(streams, videos, strict=True):
                frame = av.VideoFrame.from_ndarray(pixels[index], format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 16)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root of a file of each kind."""
    folder, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    ten_bits = {"codec": "libx265", "pixel_format": "yuv420p10le"}
    encode(folder / "hdr.mp4", video(0), options={"x265-params": PQ}, **ten_bits)  # type: ignore[arg-type]
    encode(folder / "interlaced.mp4", video(10), options={"x264-params": "tff=1"})
    encode(folder / "anamorphic.mp4", video(20, width=64), options={"x264-params": "sar=3/2"})
    encode(folder / "rotated.mp4", video(30, 96, 64), rotation_deg=90)
    two_cameras(folder / "two.mkv", [video(50), video(40, 128, 128)])
    encode(folder / "part.ts", video(60), options={"g": "20"})
    part = (folder / "part.ts").read_bytes()
    (folder / "joined.ts").write_bytes(part * 2)
    encode(folder / "part.ts", np.concatenate([video(70), video(70)]), options={"g": "100", "sc_threshold": "0"})
    part = (folder / "part.ts").read_bytes()
    (folder / "between.ts").write_bytes(part[len(part) // 188 // 4 * 188 :])
    (folder / "part.ts").unlink()
    encode(folder / "uneven.mp4", video(80), times_ms=UNEVEN_MS)
    curate_whole([str(folder)], str(out), override(CONFIG, ["basic.min_frames=35"]))
    return out


def rows(out: Path, name: str) -> dict[str, Row]:
    table = outcome_table(str(out), name)
    return {Path(row["path"]).stem: row for shard in table.shards() for row in rows_of(table, shard)}


def test_every_kind_is_kept_as_one_shot_with_its_facts(curated: Path) -> None:
    videos, clips = rows(curated, "videos"), rows(curated, "clips")
    assert {(name, row["status"], row["reason"]) for name, row in clips.items()} == {
        (name, "ok", "")
        for name in ("hdr", "interlaced", "anamorphic", "rotated", "two", "joined", "between", "uneven")
    }
    for name, row in clips.items():
        own = {name: True} if name in PLAIN else {}
        assert {fact: row[fact] for fact in PLAIN} == PLAIN | own, name
        assert (row["width_px"], row["height_px"]) == (96, 64), name
        assert videos[name]["clips"] == videos[name]["shots"] == 1, name
        assert row["frames"] == videos[name]["frames"] == len(row["times_s"])
    assert (videos["hdr"]["transfer"], videos["two"]["transfer"]) == ("pq", videos["uneven"]["transfer"])
    assert videos["interlaced"]["interlaced"] is True
    assert videos["anamorphic"]["pixel_aspect"] == 1.5
    assert (abs(videos["rotated"]["rotation_deg"]), videos["rotated"]["mirrored"]) == (90, False)
    assert videos["two"]["stream"] == 0, "the camera that players show"
    assert (clips["joined"]["frames"], clips["joined"]["duration_s"]) == (140, pytest.approx(140 / 16, abs=0.07))
    assert clips["uneven"]["times_s"] == pytest.approx([time_ms / 1000 for time_ms in UNEVEN_MS])
    assert 35 <= clips["between"]["frames"] <= 140


def test_the_rules_exclude_what_is_not_wanted(curated: Path) -> None:
    source = str(Path(next(iter(rows(curated, "clips").values()))["path"]).parent)
    strict = override(CONFIG, ["basic.min_frames=35", *(f"basic.allow_{fact}=false" for fact in PLAIN)])
    rejected = curate_whole([source], str(curated), strict).clips.rejected
    assert rejected == dict.fromkeys(PLAIN, 1)
    told = {name: row["rule"] for name, row in rows(curated, "clips").items() if row["status"] == "rejected"}
    assert told == {fact: fact for fact in PLAIN}
    curate_whole([source], str(curated), override(CONFIG, ["basic.min_frames=35"]))


def test_models_and_stills_see_the_pictures_that_were_measured(curated: Path) -> None:
    for name, clip in rows(curated, "clips").items():
        span = clip["first_frame"], clip["first_frame"] + clip["frames"]
        frames = read_frames(clip["path"], range(clip["frames"]), span=span).frames
        assert frames.shape == (clip["frames"], 64, 96, 3), name
        wanted = sorted({int(index) for index in np.linspace(0, clip["frames"] - 1, 5).round()})
        assert (sampled_frames(clip, 5, CONFIG) == frames[wanted]).all(), name
        assert clip["brightness"] == pytest.approx(frames.mean() / 255, abs=0.02), name
        for jpeg, index in zip(
            stills(clip, LatestCopy()), (0, (clip["frames"] - 1) // 2, clip["frames"] - 1), strict=True
        ):
            picture = np.asarray(Image.open(io.BytesIO(jpeg)).resize((96, 64)), float)
            assert np.abs(picture - frames[index]).mean() < 8, name
        first, last = (np.argwhere(frames[index].mean(2) < 100).mean(0) for index in (0, -1))
        assert np.abs(last - first).max() > 20, f"{name}: the dark square crosses the picture"
