from pathlib import Path

import numpy as np
import pytest

from mimir_ray.precompute import PrecomputeConfig
from mimir_ray.precompute.config import Size
from mimir_ray.precompute.frames import TooShort, choose_size, fit_frames, select_frames
from mimir_ray.records import Clip
from tests.precompute.world import clip_row


def test_65_frames_give_every_eighth() -> None:
    assert select_frames(65, 16.0, 9, None) == list(range(0, 65, 8))


def test_the_stride_is_uniform_and_centred() -> None:
    assert select_frames(70, 16.0, 9, None) == list(range(2, 67, 8))


def test_as_many_frames_as_wanted_are_all_taken() -> None:
    assert select_frames(9, 16.0, 9, None) == list(range(9))


def test_a_single_frame_is_the_middle_one() -> None:
    assert select_frames(5, 16.0, 1, None) == [2]


def test_a_rate_takes_frames_from_the_middle() -> None:
    assert select_frames(100, 24.0, 5, 8.0) == [43, 46, 49, 52, 55]
    indices = select_frames(300, 29.97, 49, 8.0)
    assert len(indices) == 49
    assert max(np.diff(indices)) - min(np.diff(indices)) <= 1
    assert indices[0] + indices[-1] == pytest.approx(299, abs=1)


@pytest.mark.parametrize(
    ("frames", "fps", "sample_fps"),
    [(8, 16.0, None), (32, 16.0, 4.0), (300, 4.0, 8.0)],
)
def test_a_clip_that_cannot_fill_the_frames_says_so(frames: int, fps: float, sample_fps: float | None) -> None:
    with pytest.raises(TooShort, match=r"clip has .*lower"):
        select_frames(frames, fps, 9, sample_fps)


def test_equal_size_is_untouched() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 32, 3)).astype(np.uint8)
    assert fit_frames(frames, 16, 32) is frames


def test_a_wide_frame_is_covered_and_cut_at_both_sides() -> None:
    frames = np.zeros((1, 32, 128, 3), np.uint8)
    frames[:, :, 32:96] = 200  # the centre half
    fitted = fit_frames(frames, 16, 32)
    assert fitted.shape == (1, 16, 32, 3)
    assert (fitted == 200).all()


@pytest.mark.parametrize(("height", "width"), [(17, 33), (480, 720), (15, 200)])
def test_any_size_is_met_exactly(height: int, width: int) -> None:
    assert fit_frames(np.zeros((2, 37, 53, 3), np.uint8), height, width).shape == (2, height, width, 3)


def size(num_frames: int, height: int, width: int) -> Size:
    return Size(num_frames=num_frames, height=height, width=width)


def sized(*sizes: Size, sample_fps: float | None = None) -> PrecomputeConfig:
    first, *others = sizes
    return PrecomputeConfig(**first.model_dump(), buckets=tuple(others), sample_fps=sample_fps)


def clip(width: int, height: int, frames: int = 65) -> Clip:
    return Clip(**clip_row("clip", Path("unused"), frames=frames) | {"width_px": width, "height_px": height})


WIDE, TALL, SQUARE = size(9, 48, 96), size(9, 96, 48), size(9, 64, 64)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1920, 1080, WIDE),  # 1.78 is nearer to 2 than to 1 by ratio
        (1080, 1920, TALL),
        (640, 640, SQUARE),
        (141, 100, SQUARE),  # the border lies at the root of 2
        (142, 100, WIDE),
        (100, 142, TALL),
    ],
)
def test_a_clip_goes_to_the_nearest_aspect(width: int, height: int, expected: Size) -> None:
    assert choose_size(clip(width, height), sized(SQUARE, WIDE, TALL))[0] == expected


@pytest.mark.parametrize(("frames", "expected"), [(65, 33), (33, 33), (32, 17), (17, 17), (16, 9), (9, 9)])
def test_of_equal_aspects_the_most_frames_that_are_filled(frames: int, expected: int) -> None:
    config = sized(SQUARE, size(33, 64, 64), size(17, 32, 32), WIDE)
    chosen, indices = choose_size(clip(64, 64, frames), config)
    assert chosen.num_frames == len(indices) == expected
    assert indices == select_frames(frames, 16.0, expected, None)


def test_a_rate_makes_long_sizes_harder_to_fill() -> None:
    config = sized(SQUARE, size(33, 64, 64), sample_fps=8.0)
    assert choose_size(clip(64, 64, 65), config)[0].num_frames == 33
    assert choose_size(clip(64, 64, 64), config)[0].num_frames == 9


def test_of_equal_frames_the_nearest_area() -> None:
    config = sized(SQUARE, size(9, 256, 256))
    assert choose_size(clip(100, 100), config)[0].height == 64
    assert choose_size(clip(200, 200), config)[0].height == 256


def test_a_clip_that_fills_no_size_of_its_aspect_is_too_short() -> None:
    config = sized(size(33, 64, 64), size(17, 64, 64), size(1, 48, 96))
    with pytest.raises(TooShort, match="clip has 16 frames, 17 at stride 1 need 17"):
        choose_size(clip(64, 64, 16), config)


def test_a_size_is_given_once() -> None:
    with pytest.raises(ValueError, match="a size is given twice"):
        sized(SQUARE, WIDE, SQUARE)
