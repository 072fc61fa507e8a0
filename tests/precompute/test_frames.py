import numpy as np
import pytest

from mimir_ray.precompute.frames import TooShort, fit_frames, select_frames


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
