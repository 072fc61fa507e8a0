"""`mimir curate report`: a verb of two words beside one that takes any number of sources."""

from pathlib import Path

import pytest

from mimir_ray.config import override
from mimir_ray.curation import CurationConfig
from tests.cli.command import mimir, run_python
from tests.curation.local import curate_whole
from tests.curation.rendering import moving, save


def test_the_report_of_a_finished_curation(tmp_path: Path) -> None:
    save(tmp_path / "[red] a.mp4", moving())
    out = tmp_path / "[bold]out"  # brackets are markup to the console, and must not be read as such
    curate_whole([str(tmp_path / "[red] a.mp4")], str(out), override(CurationConfig(), ["split=off"]))
    result = mimir("curate", "report", str(out), "-q")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out / "report.html")
    assert "1 kept" in (out / "report.html").read_text()


def test_a_report_needs_its_directory() -> None:
    result = mimir("curate", "report")
    assert result.exit_code == 2
    assert "mimir curate report" in result.stderr
    assert "Missing argument 'DIR'" in result.stderr
    assert "write ./report" in mimir("curate", "report", "--help").stdout


def test_a_folder_called_report_can_be_curated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report").mkdir()
    for sources in (["./report", "nowhere"], ["report/", "nowhere"]):
        assert "the source 'nowhere' does not exist" in mimir("curate", *sources, "--out", "o").stderr


def test_the_job_has_both_words_and_no_report_starts_ray() -> None:
    run = run_python("-m", "jobs.curate", "report", "/nowhere")
    assert run.returncode == 2
    assert "DIR '/nowhere' does not exist" in run.stderr
    run = run_python("-c", "import sys, mimir_ray.curation; sys.exit({'ray', 'torch'} & set(sys.modules) != set())")
    assert run.returncode == 0, run.stderr
