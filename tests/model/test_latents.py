"""Frames, latents and the sizes that the VAE can make."""

import numpy as np
import pytest
import torch

from mimir_ray.config import UserError
from mimir_ray.model.latents import check_size, decode_frames, draw_latents, encode_moments, latent_shape, overlap
from tests.tiny import LATENT_CHANNELS, ONE_POINT_FIVE, tiny_transformer, tiny_vae


def frames(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 9, 17, 25])
def test_every_allowed_frame_count_survives_the_vae(count: int) -> None:
    vae, config = tiny_vae(), tiny_transformer().config
    check_size(vae.config, config, count, 32, 32)
    moments = encode_moments(vae, frames(count))
    shape = latent_shape(vae.config, config, count, 32, 32)
    assert moments.shape == (2, shape[0], 2 * LATENT_CHANNELS, 4, 4)
    latents = draw_latents(moments, vae.config.scaling_factor, torch.Generator().manual_seed(0))
    assert latents.shape == (2, *shape)
    assert decode_frames(vae, latents).shape == (2, count, 32, 32, 3)


def test_the_vae_itself_decodes_an_even_number_of_latent_frames_to_a_wrong_length() -> None:
    latents = torch.zeros(1, LATENT_CHANNELS, 4, 4, 4)
    with torch.no_grad():
        assert tiny_vae().decode(latents).sample.shape[2] == 16  # 13 frames would be right


def test_drawn_latents_are_those_of_the_posterior() -> None:
    vae = tiny_vae()
    pixels = torch.as_tensor(frames(9)).float() / 127.5 - 1
    with torch.no_grad():
        posterior = vae.encode(pixels.permute(0, 4, 1, 2, 3)).latent_dist
    moments = encode_moments(vae, frames(9))
    torch.testing.assert_close(moments[:, :, :LATENT_CHANNELS], posterior.mean.permute(0, 2, 1, 3, 4))
    draws = torch.stack([draw_latents(moments, 2.0, torch.Generator().manual_seed(i)) for i in range(300)])
    mean, std = 2 * posterior.mean.permute(0, 2, 1, 3, 4), 2 * posterior.std.permute(0, 2, 1, 3, 4)
    assert float(((draws.mean(0) - mean) / std).abs().mean()) < 0.06
    assert float((draws.std(0) / std).mean()) == pytest.approx(1, abs=0.01)


def test_the_padding_of_a_temporal_patch_is_dropped() -> None:
    config = tiny_transformer().config
    patched = type("Config", (), {**config, "patch_size_t": 2})
    vae = tiny_vae()
    assert latent_shape(vae.config, patched, 9, 32, 32)[0] == 4
    latents = torch.randn(1, 4, LATENT_CHANNELS, 4, 4)
    assert np.array_equal(decode_frames(vae, latents), decode_frames(vae, latents[:, 1:]))
    assert decode_frames(vae, latents).shape[1] == 9


def test_positions_of_1_5_end_where_its_sample_size_does() -> None:
    vae, config = tiny_vae().config, tiny_transformer(rotary=True, **ONE_POINT_FIVE).config
    check_size(vae, config, 17, 64, 48)
    with pytest.raises(UserError, match="width=80 is more than this transformer has positions for: use 64 or less"):
        check_size(vae, config, 9, 64, 80)
    check_size(vae, tiny_transformer(rotary=True).config, 9, 64, 80)  # the 5B stretches its own


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((8, 64, 64), "num_frames=8 is not of the form 4k.1 .*: use 1 or 9"),
        ((50, 64, 64), "num_frames=50 .*: use 49 or 57"),
        ((13, 64, 64), "num_frames=13 makes 4 latent frames, .* odd number .*: use 9 or 17"),
        ((0, 64, 64), "num_frames=0 .*: use 1 or 9"),
        ((9, 72, 64), "height=72 must be a positive multiple of 16 .*: use 64 or 80"),
        ((9, 64, 8), "width=8 must be a positive multiple of 16 .*: use 16"),
    ],
)
def test_sizes_that_cannot_be_made_are_refused_with_the_remedy(size: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_size(tiny_vae().config, tiny_transformer().config, *size)


@pytest.mark.parametrize("factor", [4, 8, 16])
def test_tiles_add_up_to_the_frame(factor: int) -> None:
    assert overlap(30, 1 / 6, 8) == 1 / 6  # of 480 pixels in height, and of 720 in width: diffusers' own
    assert overlap(45, 1 / 5, 8) == 1 / 5
    for latents in range(2, 400):
        for share in (1 / 5, 1 / 6):
            fraction = overlap(latents, share, factor)
            assert int(latents * factor * (1 - fraction)) == factor * (latents - int(latents * fraction))  # encoded
            assert int(latents * (1 - fraction)) * factor == latents * factor - int(latents * factor * fraction)
            assert 1 <= int(latents * fraction) <= max(1, latents // 3)


def test_slices_of_a_batch_are_decoded_alone() -> None:
    vae, latents, batches = tiny_vae(), torch.randn(2, 3, 16, 4, 4), []
    whole = decode_frames(vae, latents)
    vae.enable_slicing()
    vae.decoder.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    assert np.abs(decode_frames(vae, latents).astype(int) - whole).max() <= 1
    assert set(batches) == {1}
