"""The line that says how far something is, and waits in words."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from mimir_ray import console
from mimir_ray.console import progress_line, time_left
from mimir_ray.curation import CurationConfig, curate
from tests.curation.local import LocalPipeline
from tests.curation.rendering import moving, save


def terminal(monkeypatch: pytest.MonkeyPatch, *, is_one: bool = True, width: int = 100) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "status", Console(file=written, force_terminal=is_one, width=width))
    return written


def last_line(written: io.StringIO) -> str:
    return [line for line in written.getvalue().splitlines() if "━" in line][-1]


def clock(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """The clock that reports are timed with says these one after the other, first as the block begins."""
    said: Iterator[float] = iter(seconds)
    monkeypatch.setattr("mimir_ray.console.time", type("Clock", (), {"monotonic": staticmethod(lambda: next(said))}))


def test_a_terminal_sees_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    written = terminal(monkeypatch)
    with progress_line("curating", "shards") as report:
        assert "starting" in last_line(written)
        assert report
        report(31, 40)
        report(32, 40)
    assert "32/40 shards  " in last_line(written)
    assert " left " in last_line(written)
    assert written.getvalue().endswith("\x1b[2K"), "the line is erased"


def test_pace_and_time_left_are_those_of_the_series_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 100, 104, 108, 118, 138, 138, 158)
    pace = console._Pace()
    assert pace.after(21, 40, "") == "0.25/s  76 s left", "20 were there before"
    assert pace.after(22, 40, "") == "0.25/s  72 s left"
    assert pace.after(1, 40, "") == "0.10/s  6 min left", "fewer are done: a new series"
    assert pace.after(2, 3, "") == "0.05/s  20 s left", "another total: a new series"
    assert pace.after(0, 60, "") == "", "nothing is known yet"
    assert pace.after(20, 60, "") == "1.00/s  40 s left"


def test_facts_stand_in_for_the_pace_and_move_nothing_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    written = terminal(monkeypatch, width=80)
    with progress_line("training", "steps") as report:
        assert report
        report(0, 1000, "starting")
        report(120, 1000, "loss 0.1235")
    assert "120/1000 steps  loss 0.1235" in last_line(written)
    assert "/s" not in last_line(written)
    written = terminal(monkeypatch, width=80)
    with progress_line("training", "steps") as report:
        assert report
        report(120, 1000, "many facts " * 20)
    assert written.getvalue().count("\n") == 1, "what is too long is cut, and the line stays one"
    assert "training" in last_line(written)
    assert "0:00:00" in last_line(written)
    assert "120/1000 steps  many facts" in last_line(written)


def test_elsewhere_the_log_says_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mimir_ray.curation.pipeline.pipeline", LocalPipeline)
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "a.mp4", moving())
    caplog.set_level(logging.INFO, "mimir_ray")
    for is_one, lines in ((False, 1), (True, 0)):
        written = terminal(monkeypatch, is_one=is_one)
        caplog.clear()
        with progress_line("curating", "shards") as report:
            curate([str(tmp_path / "in")], str(tmp_path / str(is_one)), CurationConfig(split="off"), progress=report)
        assert sum("1/1 shards" in message for message in caplog.messages) == lines
        assert ("1/1 shards" in written.getvalue()) is is_one


def test_a_quiet_user_and_a_terminal_that_cannot_redraw_see_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written = terminal(monkeypatch)
    console.status.quiet = True
    with progress_line("curating", "shards") as report:
        assert report is None
    assert not written.getvalue()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(console, "status", Console(file=written, force_terminal=True))
    with progress_line("curating", "shards") as report:
        assert report is None
    assert not written.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3540, "59 min"), (5400, "1 h 30 min"), (7199, "2 h 00 min")],
)
def test_a_wait_is_readable(seconds: float, text: str) -> None:
    assert time_left(seconds) == f"{text} left"
