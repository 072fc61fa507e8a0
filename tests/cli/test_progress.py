"""The line that says how far a verb is."""

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from mimir_ray.cli import progress
from mimir_ray.cli.progress import left, progress_line
from mimir_ray.curation import CurationConfig, curate
from tests.curation.local import LocalPipeline
from tests.curation.rendering import moving, save


def terminal(monkeypatch: pytest.MonkeyPatch, *, is_one: bool = True) -> io.StringIO:
    written = io.StringIO()
    console = Console(file=written, force_terminal=is_one, width=100)
    monkeypatch.setattr(progress, "status", console)
    return written


def test_a_terminal_sees_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    written = terminal(monkeypatch)
    with progress_line("curating", "shards") as report:
        assert report
        report(31, 40)
        report(32, 40)
    assert "starting" in written.getvalue()
    assert "32/40 shards, " in written.getvalue()
    assert "/s, 0 s left" in written.getvalue(), "what earlier runs did is no part of the rate"


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


def test_a_quiet_user_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written = terminal(monkeypatch)
    monkeypatch.setattr(progress.status, "quiet", True)
    with progress_line("curating", "shards") as report:
        assert report is None
    assert not written.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3540, "59 min"), (5400, "1 h 30 min"), (7199, "2 h 00 min")],
)
def test_a_duration_is_readable(seconds: float, text: str) -> None:
    assert left(seconds) == text
