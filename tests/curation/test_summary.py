"""What a run says at its end beside the accounts: sources passed over, texts that are none, shots too short."""

from pathlib import Path

import pytest
from rich.console import Console

from mimir_ray.config import override
from mimir_ray.curation import CurationConfig, render
from mimir_ray.curation.sources.notes import SOURCES_FILE
from mimir_ray.curation.summary import CurationSummary
from mimir_ray.curation.tables import outcome_table, rows_of
from mimir_ray.storage import Account, read_json
from tests.curation.local import curate_whole
from tests.curation.rendering import moving, save
from tests.curation.sources.world import lines, tar, touch

CONFIG = override(CurationConfig(), ["files_per_shard=64"])


def said(summary: CurationSummary) -> list[str]:
    """What `render` prints below its table."""
    console = Console(width=500)
    with console.capture() as captured:
        console.print(render(summary))
    return [line for line in captured.get().splitlines() if line and line[0] not in "┏┃┡│├└"][1:]


def test_a_run_on_what_people_have_loses_nothing_in_silence(tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "corpus" / "data"
    corpus.mkdir()
    save(tmp_path / "a.mp4", moving())
    save(corpus / "old words.mp4", moving(background=230))
    (corpus / "old words.txt").write_bytes("Un café.".encode("latin-1"))
    tar(corpus / "00000.tar", {"000.mp4": (tmp_path / "a.mp4").read_bytes(), "000.txt": "A square crosses."})
    touch(corpus / "cover.jpg", corpus / "sound.wav", corpus / ".DS_Store")
    lines(corpus / "captions.jsonl", {"path": "gone.mp4", "text": "Nobody."})
    for _ in range(2):  # the second time its own output lies in the corpus
        summary = curate_whole([str(corpus)], str(out), CONFIG)
        assert (summary.files.inputs, summary.files.ok) == (2, 2)
        printed = said(summary)
        assert printed[0] == "1 captions are not UTF-8 and are not used: save their files as UTF-8"
        assert "passed over, no videos by name: 1 .jpg, 1 .wav" in printed[1]
        assert any("lines that name no video that is there" in line and "gone.mp4" in line for line in printed)
        kept = read_json(str(out / SOURCES_FILE))
        assert kept["passed_over"]["by"] == {".jpg": 1, ".wav": 1}
        assert kept["unmatched_lines"]["paths"] == ["gone.mp4"]
    assert summary.shards_reused == summary.shards
    assert kept["output"]["count"] > 0
    captions, clips = (outcome_table(str(out), name) for name in ("captions", "clips"))
    found = [row for shard in captions.shards() for row in rows_of(captions, shard)]
    assert {(row["kind"], row["status"]): row["text"] for row in found} == {
        ("user", "rejected"): "Un caf\ufffd.",
        ("filename", "ok"): "old words",
        ("user", "ok"): "A square crosses.",
    }
    paths = [row["path"] for shard in clips.shards() for row in rows_of(clips, shard)]
    assert any(path.startswith("tar://000.mp4#") and path.endswith(f"::{corpus}/00000.tar") for path in paths)


def test_given_spans_are_the_clips_and_have_their_captions(tmp_path: Path) -> None:
    save(tmp_path / "film.mp4", moving(frames=130))  # 8.125 s
    (tmp_path / "film.txt").write_text("A film.")
    rows = [(4.0625, None, "Second."), (0, 4.0625, "First."), (2, "0:00:06.0625", None)]
    listed = lines(
        tmp_path / "list.jsonl", *({"path": "film.mp4", "start": a, "end": b, "caption": c} for a, b, c in rows)
    )
    curate_whole([str(listed)], str(tmp_path / "out"), CONFIG)
    captions, clips = (outcome_table(str(tmp_path / "out"), name) for name in ("captions", "clips"))
    texts = {row["clip_id"]: row["text"] for shard in captions.shards() for row in rows_of(captions, shard)}
    found = [row for shard in clips.shards() for row in rows_of(clips, shard)]
    assert sorted((row["start_s"], row["end_s"], texts[row["clip_id"]]) for row in found) == [
        (0.0, 4.0625, "First."),
        (2.0, 6.0625, "A film."),
        (4.0625, 8.125, "Second."),
    ]


@pytest.mark.parametrize(("short", "line"), [(0, None), (1200, "1,200 of 3,000 shots are shorter than")])
def test_short_shots_are_said(short: int, line: str | None) -> None:
    none = Account(inputs=0, ok=0, rejected={}, quarantined={})
    summary = CurationSummary(
        files=none, clips=none, shards=1, shards_reused=1, seconds=1, shots=3000, short_shots=short
    )
    assert [text for text in said(summary) if "shots" in text][:1] == (
        [f"{line} curation.split.min_clip_s and became no clip"] if line else []
    )
