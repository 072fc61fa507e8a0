"""What the stages say and leave behind."""

import logging
import re
from pathlib import Path

import pytest

from mimir_ray.quickstart.journal import Journal
from mimir_ray.storage import read_json


def test_a_stage_is_said_timed_and_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "quickstart.json"
    journal = Journal(file, stages=2)
    with journal.stage("render") as stage:
        stage(1, 2, "half")
        stage.did("2 clips", detail="a table")
    with journal.stage("curate") as stage:
        stage.did("2 files = 2 kept", reused=True)
    said = capfd.readouterr().err
    assert re.search(r"^1/2 render       2 clips \(\d+ s\)$", said, re.MULTILINE)
    assert "a table" in said
    assert re.search(r"^2/2 curate       2 files = 2 kept \(\d+ s\)$", said, re.MULTILINE), "no earlier run is known"
    assert read_json(file)["render"]["did"] == "2 clips"

    again = Journal(file, stages=2)
    with again.stage("render") as stage:
        stage.did("2 clips", reused=True)
    assert "1/2 render       already finished: 2 clips\n" in capfd.readouterr().err
    assert again.steps == journal.steps, "the seconds are those of the run that did the work"


def test_a_stage_that_fails_is_not_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "quickstart.json", stages=1)
    with pytest.raises(ValueError, match="no space"), journal.stage("render"):
        raise ValueError("no space")
    assert not journal.steps
    assert not (tmp_path / "quickstart.json").exists()
    assert logging.getLogger("mimir_ray.training").level == logging.NOTSET, "the rooms may speak again"
