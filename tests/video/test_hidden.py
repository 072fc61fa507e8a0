"""Files in which a decoder shows nothing of some packets in the middle, which nothing but decoding tells."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mimir_ray.video import Timing, VideoError, VideoInfo, View, cut_clip, make_clip, read_frames, scan_video
from mimir_ray.video.child import served
from mimir_ray.video.probe import index
from tests.video.players import record, screen
from tests.video.rendering import numbered, numbers

COUNT = 72
HEVC = ("-pix_fmt", "yuv420p", "-c:v", "libx265", "-x265-params")
KEYS = "keyint=12:min-keyint=12:scenecut=0:log-level=none"
NOTHING = bytes([0, 0, 0, 3, 35 << 1, 1, 0x50])  # a delimiter and no picture
END_OF_SEQUENCE = bytes([0, 0, 0, 2, 36 << 1, 1])  # of the next keyframe's pictures, those that lead it are not shown


def hiding(folder: Path, name: str) -> Path:
    """Some pictures hidden: the last ones of the second group, or those that lead the third and the fifth keyframe."""
    closed, path = name.startswith("empty"), folder / name
    options = f"{KEYS}:bframes={0 if closed else 4}:open-gop={0 if closed else 1}"
    source = record(folder / f"whole-{name}", numbered(COUNT), *HEVC, options)
    with av.open(str(source)) as whole, av.open(str(path), "w") as target:
        stream = whole.streams.video[0]
        copied = target.add_stream_from_template(stream, opaque=True)
        packets = [packet for packet in whole.demux(stream) if packet.size]
        keys = [place for place, packet in enumerate(packets) if packet.is_keyframe]
        changed = (keys[2] - 1, keys[2] - 2) if closed else (keys[2] - 1, keys[4] - 1)
        for place, packet in enumerate(packets):
            if place in changed:
                other = av.Packet(NOTHING if closed else bytes(packet) + END_OF_SEQUENCE)
                other.pts, other.dts, other.duration = packet.pts, packet.dts, packet.duration
                other.time_base = packet.time_base
                packet = other
            packet.stream = copied
            target.mux(packet)
    return path


def timing(facts: VideoInfo, first: int, end: int) -> Timing:
    bounds_s = [*facts.times_s, facts.duration_s][first : end + 1]
    times_s = [time_s - bounds_s[0] for time_s in bounds_s]
    return Timing(start_s=bounds_s[0], times_s=times_s[:-1], duration_s=times_s[-1], fps=facts.fps)


@pytest.mark.parametrize("name", ["empty.mp4", "empty.mkv", "leading.mp4", "leading.mkv"])
def test_a_span_is_the_frames_that_were_scanned(tmp_path: Path, name: str) -> None:
    path, out = hiding(tmp_path, name), tmp_path / "out.mp4"
    *_, facts = scan_video(path, [View("rgb24", None)])
    assert isinstance(facts, VideoInfo)
    player = screen(path, 64, 48)
    shown = numbers(player.frames)
    assert facts.frames == len(shown) < COUNT == len(index(path).starts)
    assert not index(path).odd
    for first, end in [(0, 10), (15, 40), (40, 61), (55, 60), (2, 60), (3, 9)]:
        when, span = timing(facts, first, end), (first, end)
        assert when.shown_s == pytest.approx((player.times_s[first], player.times_s[end - 1]), abs=2e-3)
        for indices in ([end - first - 1], [0], range(end - first)):
            found = numbers(read_frames(path, indices, span=span, shown_s=when.shown_s).frames)
            assert found == [shown[first + place] for place in indices]
        for mode in ("reencode", "either"):
            made = make_clip(path, out, span, when, mode=mode, timeout_s=60)
            assert (made.start_frame, made.end_frame) == span
            clip = screen(out, 64, 48)
            assert numbers(clip.frames) == shown[first:end]
            assert clip.times_s == pytest.approx(np.array(when.times_s), abs=2e-3)
        if end < 20:
            continue
        with pytest.raises(VideoError, match="do not tell which frames they show"):
            make_clip(path, out, span, when, mode="copy", timeout_s=60)


@pytest.mark.parametrize("name", ["a.ts", "a.avi", "a.mp4"])
def test_a_cut_whose_times_are_known_is_not_probed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = record(tmp_path / name, numbered(COUNT), "-c:v", "mpeg4", "-g", 12, "-q:v", 3), tmp_path / "out.mp4"
    *_, facts = scan_video(path, [View("rgb24", None)])
    assert isinstance(facts, VideoInfo)
    request: dict[str, Any] = {"job": "cut", "path": str(path), "out": str(out), "span": (20, 50)}
    request |= {"timing": vars(timing(facts, 20, 50)), "how": {"mode": "either"}}
    with monkeypatch.context() as patch:
        patch.setattr("mimir_ray.video.child.facts", None)
        ((reply, _),) = served(request)
    assert reply["cut"] == {"start_frame": 20, "end_frame": 50, "copied": False}
    assert numbers(screen(out, 64, 48).frames) == list(range(20, 50))
    known = out.read_bytes()
    cut_clip(path, out, 20, 50, mode="reencode", crf=14, timeout_s=60)
    assert out.read_bytes() == known, "as one that is probed"


def test_a_cut_says_how_it_was_made(tmp_path: Path) -> None:
    path, out = record(tmp_path / "a.mp4", numbered(COUNT), *HEVC, f"{KEYS}:open-gop=0"), tmp_path / "out.mp4"
    copied = [make_clip(path, out, span, None, mode="either", timeout_s=60).copied for span in ((12, 36), (13, 36))]
    assert copied == [True, False]
    assert not make_clip(path, out, (12, 36), None, mode="reencode", timeout_s=60).copied
