"""From an object store to an object store: every stage but the decoder's input is remote, and the rows are a disk's."""

from pathlib import Path
from typing import Any

import pytest

from mimir_ray.config import override
from mimir_ray.curation import CurationConfig, curate, losses, write_report
from mimir_ray.curation.tables import outcome_table, rows_of
from mimir_ray.storage import content_id, join, parent, read_bytes, upload, write_bytes
from tests.curation.rendering import moving, save, shots

CONFIG = override(CurationConfig(), ["files_per_shard=2", "cpus_per_task=0.5"])
CAPTIONS = b'{"path": "a/film.mp4", "captions": [{"kind": "user", "text": "Two scenes."}]}\n'


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "a").mkdir(parents=True)
    save(folder / "a" / "film.mp4", shots(80, 90))
    save(folder / "b c.mp4", moving())
    save(folder / "dark.mp4", moving(background=45, square=90))
    (folder / "b c.txt").write_text("A square crosses the picture.")
    (folder / "text.mp4").write_text("no video")
    (folder / "captions.jsonl").write_bytes(CAPTIONS)
    return folder


def rows(out: str, name: str) -> list[dict[str, Any]]:
    table = outcome_table(out, name)
    found = [row for shard in table.shards() for row in rows_of(table, shard)]
    keys = ("clip_id", "kind") if name == "captions" else ("start_s", "path")
    return sorted(found, key=lambda row: [parent(str(row.get(key, "")))[1] for key in keys])


@pytest.mark.usefixtures("ray_session")
def test_a_store_gives_the_rows_of_a_disk(corpus: Path, s3: str, tmp_path: Path) -> None:
    remote = join(s3, content_id(str(tmp_path)))
    source, out = join(remote, "corpus"), join(remote, "out")
    for file in filter(Path.is_file, corpus.rglob("*")):
        upload(str(file), join(source, str(file.relative_to(corpus))))
    here = curate([str(corpus)], str(tmp_path / "out"), CONFIG)
    there = curate([source], out, CONFIG)
    assert (there.files, there.clips) == (here.files, here.clips)
    assert (there.clips.ok, there.clips.rejected) == (3, {"brightness": 1})
    local = str(tmp_path / "out")
    assert rows(out, "captions") == rows(local, "captions")
    assert {row["text"] for row in rows(out, "captions")} == {"Two scenes.", "A square crosses the picture.", "dark"}
    for name in ("videos", "clips"):
        for one, other in zip(rows(out, name), rows(local, name), strict=True):
            own = ["path", "video_id"] if one["status"] == "quarantined" else ["path"]  # no content, no id of it
            assert one | dict.fromkeys(own) == other | dict.fromkeys(own)
            assert one["path"].startswith("s3://")
            assert read_bytes(one["path"]) == read_bytes(other["path"])
    assert sorted(loss.reason for loss in losses(out)) == sorted(loss.reason for loss in losses(local))
    again = curate([source], out, CONFIG)
    assert again.shards_reused == again.shards
    assert b"film.mp4" in read_bytes(write_report(out))


@pytest.mark.usefixtures("ray_session")
def test_a_list_in_a_store_names_files_beside_it(corpus: Path, s3: str, tmp_path: Path) -> None:
    remote = join(s3, content_id(str(tmp_path)))
    upload(str(corpus / "b c.mp4"), join(remote, "videos", "b c.mp4"))
    listed = join(remote, "some.jsonl")
    write_bytes(listed, b'{"path": "videos/b c.mp4"}\n{"path": "videos/gone.mp4"}\n')
    summary = curate([listed], join(remote, "out"), CONFIG)
    assert (summary.clips.ok, summary.files.ok, sum(summary.files.quarantined.values())) == (1, 1, 1)
