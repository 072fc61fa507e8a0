"""The corpus: good clips that curation must let pass, bad ones that it must not, captions for each good one."""

import json
from pathlib import Path

import pytest

from mimir_ray.config import UserError
from mimir_ray.shapes.dataset import BAD_CLIPS, CAPTIONS_FILE, render_corpus
from mimir_ray.shapes.world import CLIP_FRAMES, SIZE_PX
from mimir_ray.video.probe import probe


def test_corpus_is_complete_and_an_interrupted_one_is_continued(tmp_path: Path) -> None:
    render_corpus(tmp_path, 3, seed=1, workers=1)
    clips = sorted(tmp_path.glob("clip-*.mp4"))
    assert len(clips) == 3
    assert all((tmp_path / name).exists() for name in BAD_CLIPS)
    info = probe(clips[0])
    assert (info.frames, info.width_px, info.height_px) == (CLIP_FRAMES, SIZE_PX, SIZE_PX)

    before = {path: path.read_bytes() for path in clips}
    clips[1].unlink()
    untouched = clips[0].stat().st_mtime_ns
    render_corpus(tmp_path, 3, seed=1, workers=1)
    assert {path: path.read_bytes() for path in clips} == before
    assert clips[0].stat().st_mtime_ns == untouched


def test_captions_name_their_files(tmp_path: Path) -> None:
    render_corpus(tmp_path, 2, seed=1, workers=1)
    lines = [json.loads(line) for line in (tmp_path / CAPTIONS_FILE).read_text().splitlines()]
    assert [line["path"] for line in lines] == ["clip-00000.mp4", "clip-00001.mp4"]
    assert all([caption["kind"] for caption in line["captions"]] == ["long", "short"] for line in lines)


def test_a_folder_with_another_corpus_is_refused_and_more_clips_are_added(tmp_path: Path) -> None:
    render_corpus(tmp_path, 2, seed=1, workers=1)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.mp4")}
    for clips, seed in ((1, 1), (2, 2), (3, 2)):
        with pytest.raises(UserError, match="holds another corpus, of 2 clips"):
            render_corpus(tmp_path, clips, seed=seed)
    render_corpus(tmp_path, 3, seed=1, workers=1)
    assert before.items() <= {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.mp4")}.items()
    assert len((tmp_path / "captions.jsonl").read_text().splitlines()) == 3
