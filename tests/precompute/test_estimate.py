"""What precompute says it will take, against what it took, and for the published models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from mimir_ray.config import UserError, override
from mimir_ray.precompute import estimate
from mimir_ray.precompute.components import load_t5, load_vae
from mimir_ray.precompute.encode import latent_rows, t5_rows
from mimir_ray.precompute.inputs import ok_captions, ok_clips
from mimir_ray.recipes import mimir_5b
from mimir_ray.records import Clip
from mimir_ray.video import read_frames
from tests.precompute.world import CONFIG, alone, curated, tiny_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(curated(tmp_path_factory.mktemp("data"), shards=2, clips_per_shard=3))


def read(clip: Clip, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
    return read_frames(clip.path, indices).frames


def test_stored_bytes_are_those_of_real_rows(data: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    made = estimate(data, model, CONFIG)
    assert (made.clips, made.captions, made.shards) == (6, 12, 2)
    (clip, *_), captions = ok_clips(data, alone("shard-1")), ok_captions(data, alone("shard-1"))
    (latents,) = latent_rows([clip], read, load_vae(model, 0), CONFIG)
    (tokens, *_) = t5_rows(captions, load_t5(model, 0), CONFIG)
    assert made.bytes_by_table["latents"] == 6 * len(latents["moments"])
    assert made.bytes_by_table["t5_tokens"] == 12 * len(tokens["states"])
    assert made.shard_bytes == max(made.bytes_by_table.values()) // 2
    twice = estimate(data, model, CONFIG, clips=12)
    for table in ("latents", "t5_tokens", "llm_tokens"):
        assert twice.bytes_by_table[table] == 2 * made.bytes_by_table[table]
        assert twice.gpu_hours_by_table[table] == pytest.approx(2 * made.gpu_hours_by_table[table])
    assert "llm_tokens" not in estimate(data, model.model_copy(update={"llm": None}), CONFIG).bytes_by_table


def test_buckets_and_tiles_are_counted(data: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    plain = estimate(data, model, CONFIG)
    longer = override(CONFIG, ["buckets=[{num_frames: 17, height: 64, width: 64}]"])
    wider = override(CONFIG, ["buckets=[{num_frames: 17, height: 64, width: 96}]"])  # which no clip is nearest to
    assert estimate(data, model, wider) == plain
    made = estimate(data, model, longer)
    assert made.bytes_by_table["latents"] == plain.bytes_by_table["latents"] * 5 // 3  # latent frames of 17 and of 9
    hours = [found.gpu_hours_by_table["latents"] for found in (made, plain)]
    assert hours[0] / hours[1] == pytest.approx(17 / 9, rel=0.05)
    tiled = estimate(data, model, override(CONFIG, ["vae_tiling=true"]))
    assert tiled.bytes_by_table == plain.bytes_by_table
    assert 1 < tiled.gpu_hours_by_table["latents"] / plain.gpu_hours_by_table["latents"] < 2.5


def test_without_data_a_clip_has_one_caption_and_the_first_size(data: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    wider = override(CONFIG, ["buckets=[{num_frames: 17, height: 64, width: 96}]"])
    made, like = (estimate(root, model, wider, clips=600) for root in (None, data))
    assert (made.clips, made.captions, made.shards) == (600, 600, like.shards)
    assert made.bytes_by_table["latents"] == like.bytes_by_table["latents"], "all clips under data have that size"
    assert 2 * made.bytes_by_table["t5_tokens"] == like.bytes_by_table["t5_tokens"], "those have two captions each"
    assert estimate(None, model, CONFIG).clips == 1


def test_the_papers_half_million_clips(data: str) -> None:
    """From configurations alone: nothing of that size is ever allocated."""
    recipe = mimir_5b()
    made = estimate(data, recipe.model, recipe.precompute, clips=500_000)
    assert (made.captions, made.shards) == (1_000_000, 4096)
    assert made.bytes_by_table == {
        "latents": 500_000 * 13 * 32 * 60 * 90 * 2,
        "t5_tokens": 1_000_000 * 226 * 4096 * 2,
        "llm_tokens": 1_000_000 * (160 + 2 * 160 + 4) * 3072 * 2,
    }
    t5_xxl = 4.76e9  # parameters of the encoder, each of which a token passes once
    assert made.gpu_hours_by_table["t5_tokens"] == pytest.approx(
        1e6 * 226 * 2 * t5_xxl / 0.4 / 989.4e12 / 3600, rel=0.05
    )
    phi = 3.72e9  # parameters of Phi-3.5-mini but for its table of embeddings
    cached = 32 * 6 * (160 + 80) * 2 * 32 * 3072  # keys and values of a batch's six texts, in 32 layers
    written_s = 160 * (3 * phi + cached) * 2 / (0.6 * 3.35e12) / 32
    read_back_s = 2 * 2 * phi * 6 * (160 + 160) / (0.4 * 989.4e12)
    assert made.gpu_hours_by_table["llm_tokens"] == pytest.approx(1e6 * (written_s + read_back_s) / 3600, rel=0.02)
    assert 10 < made.gpu_hours_by_table["latents"] < 500


def test_the_number_format_decides_the_hours(data: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    hours = [
        estimate(data, model.model_copy(update={"dtype": dtype}), CONFIG).gpu_hours_by_table["t5_tokens"]
        for dtype in ("float32", "bfloat16")
    ]
    assert hours[0] / hours[1] == pytest.approx(989.4 / 67.0)


def test_a_language_model_that_is_not_there_is_said(data: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path).model_copy(update={"llm": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match=r"cannot read model\.llm=.*nowhere"):
        estimate(data, model, CONFIG)


def test_a_gpu_that_nobody_knows_is_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the figures of 'Voodoo 2' are not known; name one of B200"):
        estimate(data, tiny_model(tmp_path), CONFIG, gpu="Voodoo 2")
