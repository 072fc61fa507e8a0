import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mimir_ray.precompute import PrecomputeConfig
from mimir_ray.precompute.config import Size
from mimir_ray.precompute.frames import TooShort, choose_size, fit_frames, select_frames
from mimir_ray.records import Clip
from tests.precompute.world import clip_row


def at(fps: float, frames: int) -> list[float]:
    return [index / fps for index in range(frames)]


def test_65_frames_give_every_eighth() -> None:
    assert select_frames(at(16.0, 65), 9, None) == list(range(0, 65, 8))


def test_the_stride_is_uniform_and_centred() -> None:
    assert select_frames(at(16.0, 70), 9, None) == list(range(2, 67, 8))


def test_as_many_frames_as_wanted_are_all_taken() -> None:
    assert select_frames(at(16.0, 9), 9, None) == list(range(9))


@pytest.mark.parametrize("sample_fps", [None, 8.0])
def test_a_single_frame_is_the_middle_one(sample_fps: float | None) -> None:
    assert select_frames(at(16.0, 5), 1, sample_fps) == [2]
    assert select_frames([0.0], 1, sample_fps) == [0]


def test_a_rate_takes_frames_from_the_middle() -> None:
    assert select_frames(at(24.0, 100), 5, 8.0) == [43, 46, 49, 52, 55]
    indices = select_frames(at(29.97, 300), 49, 8.0)
    assert len(indices) == 49
    assert max(np.diff(indices)) - min(np.diff(indices)) <= 1
    assert indices[0] + indices[-1] == pytest.approx(299, abs=1)


def counted(frames: int, stride: Fraction, num_frames: int) -> list[int] | None:
    """At a constant rate: every so many frames, counted in fractions; of two equally near ones the even one."""
    needed = round((num_frames - 1) * stride) + 1
    if stride < 1 or frames < needed:
        return None
    first = (frames - needed) // 2
    return [first + round(index * stride) for index in range(num_frames)]


def selected(times_s: Sequence[float], num_frames: int, sample_fps: float | None) -> list[int] | None:
    try:
        return select_frames(times_s, num_frames, sample_fps)
    except TooShort:
        return None


RATES = [
    Fraction(8),
    Fraction(25, 2),
    Fraction(16),
    Fraction(24000, 1001),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(60),
]


@pytest.mark.parametrize("fps", RATES, ids=str)
@pytest.mark.parametrize("sample_fps", [None, 4, 8, 12, 15, 24, Fraction(5, 3)], ids=str)
def test_at_a_constant_rate_frames_are_counted(fps: Fraction, sample_fps: Fraction | int | None) -> None:
    for frames, num_frames in itertools.product((2, 9, 16, 33, 48, 64, 65, 97, 150, 299), (1, 2, 9, 17, 49)):
        stride = Fraction(max(1, (frames - 1) // max(1, num_frames - 1))) if sample_fps is None else fps / sample_fps
        if sample_fps and sample_fps * Fraction(998, 1000) < fps < sample_fps:
            continue  # a short clip does not tell 23.976 from 24
        times_s = [float(index / fps) for index in range(frames)]
        rate = None if sample_fps is None else float(sample_fps)
        assert selected(times_s, num_frames, rate) == counted(frames, stride, num_frames)


def phone(*parts: tuple[int, float]) -> list[float]:
    """Times of so many frames that stand for so many seconds each, part after part."""
    lengths_s = [length_s for frames, length_s in parts for _ in range(frames)]
    return [0.0, *itertools.accumulate(lengths_s)][: len(lengths_s)]


VARIABLE = {
    "half as fast": phone((150, 1 / 60), (75, 1 / 30)),
    "30 then 10": phone((60, 1 / 30), (60, 0.1)),
    "10 then 30": phone((60, 0.1), (60, 1 / 30)),
    "a recorder": phone((120, 0.016), (100, 0.066)),
    "dropped frames": phone((40, 1 / 30), (1, 2 / 30), (30, 1 / 30), (1, 3 / 30), (60, 1 / 30)),
    "jitter": phone(*((1, 0.03 + 0.007 * (index * 7 % 5 - 2)) for index in range(160))),
}


@pytest.mark.parametrize("times_s", VARIABLE.values(), ids=VARIABLE)
@pytest.mark.parametrize("num_frames", [9, 17])
def test_at_a_variable_rate_steps_are_even_in_time(times_s: list[float], num_frames: int) -> None:
    indices = select_frames(times_s, num_frames, 8.0)
    steps_s = np.diff(np.array(times_s)[indices])
    assert len(indices) == num_frames
    assert steps_s.max() <= 1.5 / 8
    assert steps_s.sum() == pytest.approx((num_frames - 1) / 8, abs=0.05)
    for index, target_s in zip(indices, times_s[indices[0]] + np.arange(num_frames) / 8, strict=True):
        nearest_s = min(abs(time_s - target_s) for time_s in times_s)
        assert abs(times_s[index] - target_s) == pytest.approx(nearest_s, abs=1e-4)


def test_a_variable_rate_is_taken_from_the_middle_in_time() -> None:
    times_s = VARIABLE["half as fast"]  # 5 s
    indices = select_frames(times_s, 17, 8.0)
    assert times_s[indices[0]] == pytest.approx(1.5, abs=0.05)
    assert times_s[indices[-1]] == pytest.approx(3.5, abs=0.05)


def test_a_frame_that_stands_is_taken_again() -> None:
    times_s = phone((30, 1 / 30), (1, 0.5), (30, 1 / 30))
    indices = select_frames(times_s, 17, 8.0)
    assert len(set(indices)) < 17
    assert np.diff(indices).min() == 0


def test_without_a_rate_a_variable_one_is_spread_over_the_whole_clip_in_time() -> None:
    for times_s in VARIABLE.values():
        steps_s = np.diff(np.array(times_s)[select_frames(times_s, 9, None)])
        assert steps_s.sum() > 0.9 * times_s[-1]
        longest_s = max(np.diff(times_s))
        assert steps_s.max() - steps_s.min() <= 2 * longest_s


@pytest.mark.parametrize(
    ("frames", "fps", "sample_fps", "said"),
    [
        (8, 16.0, None, "8 frames in 0.5 s, 9 frames 0.0625 s apart need 0.5625 s; lower precompute.num_frames$"),
        (32, 16.0, 4.0, "in 2 s, 9 frames 0.25 s apart need 2.062 s; lower .* or raise precompute.sample_fps"),
        (300, 4.0, 8.0, "4 frames a second, 8 wanted; lower precompute.sample_fps"),
        (1, 16.0, None, "1 frames"),
        (1, 16.0, 8.0, "1 frames"),
    ],
)
def test_a_clip_that_cannot_fill_the_frames_says_so(
    frames: int, fps: float, sample_fps: float | None, said: str
) -> None:
    with pytest.raises(TooShort, match=f"clip has .*{said}"):
        select_frames(at(fps, frames), 9, sample_fps)


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
    assert indices == select_frames(at(16.0, frames), expected, None)


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
    with pytest.raises(TooShort, match=r"clip has 16 frames in 1 s, 17 frames .* need 1\.062 s"):
        choose_size(clip(64, 64, 16), config)


def test_a_size_is_given_once() -> None:
    with pytest.raises(ValueError, match="a size is given twice"):
        sized(SQUARE, WIDE, SQUARE)
