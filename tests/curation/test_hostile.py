"""A corpus of files that should break a pipeline, through the whole of it."""

from pathlib import Path

import pytest

from mimir_ray.config import override
from mimir_ray.curation import CurationConfig, curate
from mimir_ray.curation.tables import outcome_table
from tests.curation import hostile

CONFIG = override(CurationConfig(), ["split=off", "files_per_shard=16", "cpus_per_task=0.5", "decode_timeout_s=20"])


@pytest.mark.usefixtures("ray_session")
def test_every_hostile_file_meets_its_fate_and_says_why(tmp_path: Path) -> None:
    source, out = tmp_path / "in", str(tmp_path / "out")
    hostile.build(source)
    summary = curate([str(source)], out, CONFIG)
    fates: dict[str, hostile.Fate] = {}
    for table in ("videos", "clips"):
        for rows in outcome_table(out, table).scan(["path", "status", "reason"]):
            for row in rows.to_pylist():
                fates[Path(row["path"]).name] = hostile.Fate(table, row["status"], row["reason"])
    assert len(hostile.EXPECTED) >= 90
    assert fates.keys() == hostile.EXPECTED.keys()
    wrong = {name: (fates[name], fate) for name, fate in hostile.EXPECTED.items() if not _is(fates[name], fate)}
    assert wrong == {}
    assert summary.files.inputs == len(fates)
    assert summary.clips.inputs == summary.files.ok
    for fate in fates.values():
        assert "Traceback" not in fate.words
        assert "Error" not in fate.words, "a reason is for people, not an exception's name"


def _is(found: hostile.Fate, expected: hostile.Fate) -> bool:
    if not expected.table:  # damage that a decoder may conceal
        return bool(found.status)
    return found[:2] == expected[:2] and expected.words in found.words
