"""The latents of a span of a film are those of the same clip as a file of its own."""

from pathlib import Path

import pytest

from mimir_ray.precompute.components import load_vae
from mimir_ray.precompute.encode import latent_rows
from mimir_ray.precompute.sources import Sources
from mimir_ray.records import Clip
from mimir_ray.storage import file_id
from mimir_ray.video import cut_clip, read_info
from tests.precompute.world import CONFIG, clip_row, moving_square, tiny_model
from tests.video.rendering import encode


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_latents_of_a_span_equal_those_of_a_copy_bit_for_bit(codec: str, tmp_path: Path) -> None:
    options = {"libx264": {"g": "20", "bf": "2"}, "libx265": {"x265-params": "keyint=20:open-gop=0:log-level=none"}}
    film = encode(
        tmp_path / "film.mp4", moving_square(3, frames=80), codec=codec, options=options.get(codec, {"g": "20"})
    )
    first, end = cut_clip(film, tmp_path / "copy.mp4", 20, 60, mode="copy", timeout_s=60)
    assert end - first >= 9
    vae = load_vae(tiny_model(tmp_path).located(), 0)
    moments = []
    for path, span in ((film, (first, end)), (tmp_path / "copy.mp4", (0, end - first))):
        times_s = read_info(path).times_s[slice(*span)]
        row = clip_row("clip", path, frames=end - first) | {"first_frame": span[0], "video_id": file_id(path)}
        row["times_s"] = tuple(time_s - times_s[0] for time_s in times_s)
        with Sources(str(tmp_path), 60) as sources:
            (made,) = latent_rows([Clip(**row)], sources.read, vae, CONFIG)
        assert made["status"] == "ok", made["reason"]
        moments.append(made["moments"])
    assert moments[0] == moments[1]
