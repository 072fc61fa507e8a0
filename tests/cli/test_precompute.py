"""How `mimir precompute` ends, and what it passes on."""

from pathlib import Path
from typing import Any

import pytest

from mimir_ray.precompute import PrecomputeSummary
from mimir_ray.precompute.lengths import TruncatedCaptions
from mimir_ray.precompute.outcomes import PASSING
from mimir_ray.storage import Account
from tests.cli.command import mimir

AWAY = (
    f"{PASSING}/share/a.mp4 is not there; it had 9 bytes: bring it back, or run `mimir curate` again on what is there"
)


def summary(latents: Account) -> PrecomputeSummary:
    return PrecomputeSummary(
        tables={},
        accounts={"latents": latents},
        clips=latents.inputs,
        truncated=TruncatedCaptions(limit=26, captions=2, longest=31, example="a red circle"),
        rows_tried={"latents": latents.inputs},
        rows_encoded={"latents": latents.ok},
        shards_written=1,
        busy_s={"latents": 1.0},
        seconds=2.0,
    )


@pytest.mark.parametrize(
    ("latents", "code"),
    [
        (Account(inputs=3, ok=0, rejected={}, quarantined={AWAY: 2, "b.mp4: cut off": 1}), 1),
        (Account(inputs=3, ok=0, rejected={"clip has 8 frames": 3}, quarantined={}), 1),
        (Account(inputs=3, ok=1, rejected={}, quarantined={AWAY: 2}), 0),
        (Account(inputs=0, ok=0, rejected={}, quarantined={}), 0),
    ],
    ids=["all away", "all too short", "some", "nothing to do"],
)
def test_it_fails_where_nothing_could_be_encoded(
    latents: Account, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def run(*_: Any, **options: Any) -> PrecomputeSummary:
        given.update(options)
        return summary(latents)

    monkeypatch.setattr("mimir_ray.precompute.precompute", run)
    monkeypatch.setattr("mimir_ray.cli.ray_cluster.connect", lambda address: None)
    result = mimir("precompute", "--data", str(tmp_path), "--retry-quarantined", "-q")
    assert result.exit_code == code, result.output
    assert (given["overwrite"], given["retry_quarantined"]) == (False, True)
    assert "captions truncated to the 26 tokens that the text encoder reads: 2; the longest has 31" in result.stdout
    if code == 0:
        assert result.stderr == ""
        return
    reason, count = max((latents.rejected | latents.quarantined).items(), key=lambda found: found[1])
    assert result.stderr.startswith(
        f"mimir: nothing could be encoded: 3 rows of latents, none of them ok, {count} because"
    )
    assert reason in result.stderr
