"""The whole road with tiny random models: to the end, again, and after kills at every stage."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mimir_ray.config import override, to_yaml
from mimir_ray.quickstart import QuickstartConfig, run
from mimir_ray.recipes import Recipe, shapes
from mimir_ray.shapes.dataset import BAD_CLIPS, clip_scene
from mimir_ray.shapes.world import CLIP_FPS, render
from mimir_ray.video import write_mp4
from tests.tiny import tiny_base, tiny_llm

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMALL = QuickstartConfig(clips=12, prompts=6)
SETTINGS = [
    "curation.files_per_shard=4",
    "precompute.least_psnr_db=null",  # the tiny VAE has random weights
    "model.language.max_new_tokens=4",
    "generation.num_inference_steps=2",
    *("training.steps=6", "training.batch_size=4", "training.warmup_steps=1"),
    *("training.log_every=2", "training.checkpoint_every=2"),
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("models")
    base, llm = tiny_base(folder / "base"), tiny_llm(folder / "llm")
    return override(shapes(), [f"model.base={base}", f"model.llm={llm}", *SETTINGS])


def written(out: Path) -> dict[str, int]:
    """When each committed file below ``out`` was written."""
    return {
        str(file.relative_to(out)): file.stat().st_mtime_ns
        for pattern in ("corpus-*/*.mp4", "data/*/*.parquet", "videos/*/*/*.parquet", "videos/*/videos/*.mp4")
        for file in out.glob(pattern)
    }


def check_finished(out: Path) -> None:
    page = (out / "report.html").read_text()
    assert page.count("<video") == 2 * 3 * SMALL.prompts
    assert "bad-not-a-video.mp4" in page
    assert (out / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    scores = json.loads((out / "scores.json").read_text())
    assert set(scores) == {"long", "seen", "held"}
    for axes in scores.values():
        assert axes["all"]["ceiling"]["right"] == axes["all"]["ceiling"]["of"] == SMALL.prompts
        assert set(axes["colour"]) == {"base", "Mimir", "floor", "ceiling"}


@pytest.mark.usefixtures("ray_session")
def test_the_whole_road_and_again(recipe: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(out, None, SMALL, recipe) == out / "report.html"
    check_finished(out)
    first, said = written(out), capfd.readouterr().err
    assert f"{SMALL.clips + len(BAD_CLIPS)} files = {SMALL.clips} kept + 4 rejected + 2 quarantined" in said

    run(out, None, SMALL, recipe)
    said = capfd.readouterr().err
    for stage in ("1/6 render", "2/6 curate", "3/6 precompute", "4/6 train", "5/6 generate"):
        assert f"{stage:<16} already finished" in said
    assert written(out) == first, "nothing that was committed is made again"

    more = tmp_path / "videos"
    more.mkdir()
    write_mp4(more / "a red circle.mp4", render(clip_scene(seed=7, index=0)), CLIP_FPS)
    (more / "notes.mp4").write_text("no video")
    run(out, more, SMALL, recipe)
    said = capfd.readouterr().err
    assert (
        "4/7 your videos  2 files = 1 kept + 0 rejected + 1 quarantined; 1 latents, 1 t5_tokens, 1 llm_tokens" in said
    )
    assert "5/7 train        already finished" in said, "nothing is trained on them"
    assert first.items() <= written(out).items()
    page = (out / "report.html").read_text()
    assert "Your videos" in page
    assert "notes.mp4" in page


PROGRAM = """
import sys
from pathlib import Path
from mimir_ray.cli.verb import set_up_logging
from mimir_ray.cli.ray_cluster import connect
from mimir_ray.config import from_yaml
from mimir_ray.quickstart import QuickstartConfig, run
from mimir_ray.recipes import Recipe

if __name__ == "__main__":
    set_up_logging(verbose=False, quiet=False)
    connect()
    recipe = from_yaml(Recipe, Path(sys.argv[2]).read_text())
    run(Path(sys.argv[1]), None, QuickstartConfig(clips=12, prompts=6), recipe)
"""


def reached(out: Path, stage: str) -> bool:
    """Whether a stage has committed something."""
    patterns = {
        "render": "corpus-*/clip-*.mp4",
        "curate": "data/clips/*.parquet",
        "precompute": "data/latents/*.parquet",
        "train": "train/*/metrics.jsonl",
        "generate": "videos/*/generations/*.parquet",
    }
    return any(out.glob(patterns[stage]))


def test_killed_at_every_stage_it_continues(recipe: Recipe, tmp_path: Path) -> None:
    out, file, program = tmp_path / "out", tmp_path / "recipe.yaml", tmp_path / "program.py"
    file.write_text(to_yaml(recipe))
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(out), str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for stage in ("render", "curate", "precompute", "train", "generate"):
        with (tmp_path / f"{stage}.log").open("w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            while process.poll() is None and not reached(out, stage):
                time.sleep(0.05)
            committed = written(out)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.returncode == -signal.SIGKILL, (tmp_path / f"{stage}.log").read_text()
        time.sleep(1)  # Ray's workers notice that their driver is gone
        now = written(out)
        assert committed.items() <= now.items(), f"killed in {stage}: what was committed stays"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert committed.items() <= written(out).items()
    check_finished(out)
