"""Clips scored while their video goes by have the scores of clips that are held as a whole, to the last bit."""

import random
import weakref
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import pytest

from mimir_ray.curation.config import Measures, Split
from mimir_ray.curation.meter import Meter
from mimir_ray.curation.metrics import Grey, Scores, black_pixels, flow_magnitude, sample
from mimir_ray.curation.spans import KnownSpans, ShotSpans, Span, Spans, shot_spans

MEASURES = Measures(short_side_px=32, quality_frames=7, motion_pairs=5)
TEXTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 400), np.uint8), (0, 0), 2)


def picture(index: int) -> Grey:
    """A textured frame that slides, faster and faster, and is black every ninth time."""
    left = (index * index // 3) % 340
    return np.zeros((40, 48), np.uint8) if index % 9 == 8 else TEXTURE[:40, left : left + 48].copy()


def offline(first: int, end: int, times_s: Sequence[float], measures: Measures) -> Scores:
    """The scores of a clip whose frames all lie there, as the definitions have them."""
    frames = [picture(index) for index in range(first, end)]
    sampling = sample([time_s - times_s[first] for time_s in times_s[first:end]], measures)
    looked_at = [frames[index] for index in sampling.quality]
    flows = [flow_magnitude(frames[a], frames[b], measures.farneback) for a, b in sampling.motion]
    black = [black_pixels(frame, measures.black_level) for frame in looked_at]
    pixels = len(looked_at) * frames[0].size
    return Scores(
        motion=sum(flows) / len(flows) if flows else 0.0,
        black_area=sum(black) / pixels,
        brightness=sum(int(frame.sum(dtype=np.int64)) for frame in looked_at) / (255 * pixels),
        black_frame_rate=sum(count / frames[0].size >= measures.black_frame_area for count in black) / len(looked_at),
    )


def pass_by(times_s: Sequence[float], cuts: set[int], spans: Spans, measures: Measures = MEASURES) -> Meter:
    """A video goes by, its cuts known."""
    meter = Meter(measures)
    for index, time_s in enumerate(times_s):
        meter.end(spans.ended(index, time_s, cut=index in cuts))
        meter.add(time_s, picture(index), spans.begins(index, time_s, cut=index in cuts))
    meter.end_all()
    return meter


def steps(kind: str, rng: random.Random) -> list[float]:
    """Times between frames: even, uneven, or with frames that stand for long."""
    if kind == "even":
        return [rng.choice([1 / 60, 1 / 30, 1 / 10, 0.5])] * rng.randrange(1, 90)
    if kind == "uneven":
        return [rng.uniform(0.001, 0.3) for _ in range(rng.randrange(1, 90))]
    return [rng.choice([0.04, 0.04, 0.04, 0.5, 1.0, 3.7]) for _ in range(rng.randrange(1, 60))]


@pytest.mark.parametrize("kind", ["even", "uneven", "gaps"])
@pytest.mark.parametrize("seed", range(4))
def test_clips_of_shots_have_the_scores_of_whole_clips(kind: str, seed: int) -> None:
    rng = random.Random(f"{kind} {seed}")
    times_s = [float(time_s) for time_s in np.cumsum([0.0, *steps(kind, rng)])]
    frames = len(times_s) - 1
    max_clip_s = rng.choice([0.51, 0.7, 2.0, 5.0])
    split = Split(
        min_clip_s=rng.choice([0.01, 0.2, 0.5]),
        max_clip_s=max_clip_s,
        stride_s=rng.choice([0.05, max_clip_s / 3, max_clip_s, 2 * max_clip_s]),
    )
    density = rng.choice([0.0, 0.05, 0.3, 1.0])
    cuts = {index for index in range(1, frames) if rng.random() < density}
    meter = pass_by(times_s[:-1], cuts, ShotSpans(split))
    for first, end in shot_spans([0, *sorted(cuts)], times_s, split):
        assert meter.scores(first, end) == offline(first, end, times_s, MEASURES), (first, end)


@pytest.mark.parametrize("kind", ["even", "uneven", "gaps"])
@pytest.mark.parametrize("seed", range(4))
def test_clips_of_given_spans_have_the_scores_of_whole_clips(kind: str, seed: int) -> None:
    rng = random.Random(f"given {kind} {seed}")
    times_s = [float(time_s) for time_s in np.cumsum([0.0, *steps(kind, rng)])]
    frames = len(times_s) - 1
    firsts = [rng.randrange(frames) for _ in range(6)]
    wanted: list[Span] = []
    for first in [*firsts, *firsts]:  # several begin at the same frame
        wanted.append((first, rng.randrange(first, frames) + 1))
    known = KnownSpans(wanted, in_seconds=False)
    meter = pass_by(times_s[:-1], set(), known)
    assert known.found(frames) == wanted
    for first, end in wanted:
        assert meter.scores(first, end) == offline(first, end, times_s, MEASURES), (first, end)


def test_clips_shorter_than_a_step_that_begin_together_are_measured_each_from_end_to_end() -> None:
    wanted = [(2, 4), (2, 7), (2, 5), (2, 3)]
    meter = pass_by([index / 30 for index in range(9)], set(), KnownSpans(wanted, in_seconds=False))
    assert meter.scores(2, 3).motion == 0.0
    for first, end in wanted[:3]:
        expected = flow_magnitude(picture(first), picture(end - 1), MEASURES.farneback)
        assert meter.scores(first, end).motion == expected > 0


def test_a_cut_at_every_frame() -> None:
    times_s = [index / 25 for index in range(20)]
    split = Split(min_clip_s=0.01)
    spans = shot_spans(range(19), times_s, split)
    assert spans == list(pairwise(range(20)))
    meter = pass_by(times_s[:-1], set(range(1, 19)), ShotSpans(split))
    assert [meter.scores(*span) for span in spans] == [offline(*span, times_s, MEASURES) for span in spans]


@pytest.mark.parametrize("spans", [ShotSpans(Split()), KnownSpans([(0, 10**9)], in_seconds=False)])
def test_no_picture_is_kept_but_two_for_each_clip_that_may_run(spans: Spans) -> None:
    meter, held, most = Meter(MEASURES), list[weakref.ref[Grey]](), 0
    for index in range(600):
        grey_HW = picture(index)
        held.append(weakref.ref(grey_HW))
        meter.end(spans.ended(index, index / 25, cut=False))
        meter.add(index / 25, grey_HW, spans.begins(index, index / 25, cut=False))
        del grey_HW
        held = [one for one in held if one() is not None]
        most = max(most, len(held))
    assert most <= 4, "the last frame, and the beginning of a step for each of two clips"
    meter.end_all()
    assert all(one() is None for one in held), "when all clips have ended nothing is held"


def test_a_long_shot_of_overlapping_clips_holds_a_picture_for_each_that_runs() -> None:
    spans, meter = ShotSpans(Split(max_clip_s=2.0, stride_s=0.5)), Meter(MEASURES)
    for index in range(500):
        meter.end(spans.ended(index, index / 25, cut=False))
        meter.add(index / 25, picture(index), spans.begins(index, index / 25, cut=False))
        assert len(meter._running) <= 7  # (2 s + 1 s) / 0.5 s, and the one that has just begun
