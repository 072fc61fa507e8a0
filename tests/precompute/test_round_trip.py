"""A VAE that does not know the videos is noticed before anything is encoded with it."""

import random
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from mimir_ray.config import UserError, override
from mimir_ray.precompute import render
from mimir_ray.precompute.components import load_vae
from mimir_ray.precompute.round_trip import CLIPS, check_round_trip, round_trip_db
from mimir_ray.precompute.summary import MEASURE
from mimir_ray.recipes import by_name
from mimir_ray.records import Clip
from mimir_ray.shapes import world
from mimir_ray.storage import Table
from mimir_ray.video import VideoError
from tests.precompute.world import CONFIG, clip_row, curated, precompute_whole, tiny_model

CHECKED = override(CONFIG, ["least_psnr_db=22"])


@pytest.fixture(scope="module")
def vae() -> Any:
    return load_vae(by_name("shapes").model, 0)


def shapes(seed: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(world.render(world.sample_scene(random.Random(seed)))[::8])


def texture(seed: int) -> NDArray[np.uint8]:
    """Nine frames of what no shapes world has: soft patches of all colours that drift."""
    coarse = np.random.default_rng(seed).integers(0, 255, (10, 10, 3)).repeat(8, 0).repeat(8, 1)
    soft = sum(np.roll(coarse, (i, j), (0, 1)) for i in range(8) for j in range(8)) // 64
    return np.stack([soft[8:72, index : index + 64] for index in range(9)]).astype(np.uint8)


def clips(count: int) -> list[Clip]:
    rows = [clip_row(f"clip-{index}", Path(f"{index}.mp4")) for index in range(count)]
    return [Clip(**row) for row in rows]


def test_its_own_world_comes_back_and_no_other(vae: Any) -> None:
    own, other = (round_trip_db([make(seed) for seed in range(3)], vae) for make in (shapes, texture))
    assert own > 29
    assert other < 20
    limit = by_name("shapes").precompute.least_psnr_db
    assert limit is not None
    assert other < limit < own
    assert limit == by_name("mimir_5b").precompute.least_psnr_db


def test_psnr_is_that_of_the_middle_of_the_first_frames() -> None:
    """By a VAE that gives back what it got, but for one grey level; pictures are larger than what is looked at."""

    class Exact:
        config = SimpleNamespace(block_out_channels=(8,) * 4, scaling_factor=1.0)

    seen: list[tuple[int, ...]] = []

    def encode(vae: Any, frames: NDArray[np.uint8]) -> Any:
        import torch

        seen.append(frames.shape)
        grey = torch.from_numpy(frames.astype(np.float32))
        return torch.stack([grey, grey], 2)

    def decode(vae: Any, latents: Any) -> NDArray[np.uint8]:
        return np.asarray(latents[:, :, 0].numpy() + 1).astype(np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mimir_ray.precompute.round_trip.encode_moments", encode)
        patch.setattr("mimir_ray.precompute.round_trip.decode_frames", decode)
        found = round_trip_db([np.zeros((49, 480, 720, 3), np.uint8), np.zeros((3, 64, 88, 3), np.uint8)], Exact())
    assert seen == [(1, 9, 256, 256, 3), (1, 1, 64, 88, 3)]
    assert found == pytest.approx(20 * np.log10(255))


def test_the_first_clips_that_can_be_read_are_looked_at(vae: Any) -> None:
    read: list[str] = []

    def reads(clip: Clip, indices: Sequence[int]) -> NDArray[np.uint8]:
        read.append(clip.clip_id)
        if clip.clip_id == "clip-0":
            raise VideoError("cut off")
        return shapes(len(read))

    def never(clip: Clip, indices: Sequence[int]) -> NDArray[np.uint8]:
        raise VideoError("cut off")

    found = check_round_trip(clips(50), reads, vae, CHECKED, "base")
    assert found is not None
    assert found > 29
    assert read == [f"clip-{index}" for index in range(CLIPS + 1)]
    assert check_round_trip(clips(50), never, vae, CHECKED, "base") is None
    assert check_round_trip([], reads, vae, CHECKED, "base") is None


def test_what_does_not_come_back_is_refused_with_the_recipe_to_use(vae: Any) -> None:
    def reads(clip: Clip, indices: Sequence[int]) -> NDArray[np.uint8]:
        return texture(int(clip.clip_id[-1]))

    with pytest.raises(
        UserError, match=r"VAE of shapes does not know videos like these: .* first 2 clips back at"
    ) as told:
        check_round_trip(clips(2), reads, vae, CHECKED, "shapes")
    for part in ("precompute.least_psnr_db is 22,", "--recipe mimir_2b and mimir_5b", "precompute.least_psnr_db=null"):
        assert part in str(told.value)
    allowed = check_round_trip(clips(2), reads, vae, CONFIG, "shapes")
    assert allowed is not None
    assert allowed < 20, "told to, it still says how bad it is"


def test_nothing_is_encoded_that_would_be_noise_and_what_is_tells_how_it_came_back(tmp_path: Path) -> None:
    model, data = tiny_model(tmp_path / "model"), curated(tmp_path / "data", shards=2)
    with pytest.raises(UserError, match="does not know videos like these"):
        precompute_whole(data, model, CHECKED)
    assert Table(str(data / "latents")).shards() == []

    summary = precompute_whole(data, model, CONFIG)
    measured = summary.tables["latents"].measured[MEASURE]
    assert 0 < measured < 22
    assert summary.round_trip_db == measured
    console = Console(width=200, record=True, file=StringIO())
    console.print(render(summary))
    assert f"the VAE gives the first clips back at {measured:.1f} dB PSNR" in console.export_text()

    (data / "t5_tokens" / Table(str(data / "t5_tokens")).shards()[0]).with_suffix(".parquet").unlink()
    assert precompute_whole(data, model, CONFIG).round_trip_db == measured, "kept where no clip is encoded"
    assert precompute_whole(data, model, CHECKED).rows_tried["latents"] == 0, "the limit decides no row"
