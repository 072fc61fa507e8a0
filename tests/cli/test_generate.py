"""`mimir generate`: one prompt in this process, a list on Ray; and `mimir init`."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mimir_ray.generation.config import GenerationConfig
from mimir_ray.generation.prompts import PromptList
from mimir_ray.storage import Table, join, list_files
from mimir_ray.video import probe, read_frames
from tests.cli.command import mimir, run_python
from tests.tiny import tiny_base, tiny_llm, tiny_mimir


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mimir(tmp_path_factory.mktemp("mimir"))


PROMPT = "a red circle"


def test_one_prompt_makes_one_video_and_the_same_again(model: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "first.mp4", tmp_path / "second.mp4"]
    for path in paths:
        result = mimir("generate", PROMPT, "--out", str(path), "--model", str(model), "--seed", "7", "--steps", "2")
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() == str(path)
    info = probe(str(paths[0]))
    assert (info.frames, info.width_px, info.height_px) == (9, 64, 64)
    first, second = (read_frames(str(path), range(9), timeout_s=30).frames for path in paths)
    assert (first == second).all()
    request = json.loads((tmp_path / "first.json").read_text())
    assert (request["prompt"], request["seed"], request["num_inference_steps"]) == (PROMPT, 7, 2)


def test_a_model_of_another_size_needs_its_recipe(model: Path, tmp_path: Path) -> None:
    larger = shutil.copytree(model, tmp_path / "larger")
    config = json.loads((larger / "transformer" / "config.json").read_text())
    (larger / "transformer" / "config.json").write_text(json.dumps(config | {"sample_height": 60, "sample_width": 90}))
    result = mimir("generate", PROMPT, "--out", str(tmp_path / "x.mp4"), "--model", str(larger))
    assert result.exit_code == 2
    assert "name its --recipe (shapes, mimir_2b, mimir_5b)" in result.stderr


def test_an_empty_prompt_and_a_file_of_another_kind_are_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    for prompt, out, told in (("  ", "x.mp4", "the prompt is empty"), ("a ball", "x.gif", "written as .mp4 files")):
        result = mimir("generate", prompt, "--out", str(tmp_path / out))
        assert result.exit_code == 2
        assert told in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_directory_with_a_dot_in_its_name_is_no_file(tmp_path: Path) -> None:
    result = mimir("generate", str(tmp_path / "nowhere.txt"), "--out", str(tmp_path / "v1.2"))
    assert "there is no prompt list" in result.stderr


def test_locations_with_options_are_known_by_their_names(model: Path, s3: str) -> None:
    given = ("--model", str(model), "--steps", "2")
    result = mimir("generate", PROMPT, "--out", join(s3, "x.gif"), *given)
    assert "written as .mp4 files" in result.stderr
    result = mimir("generate", join(s3, "prompts.txt"), "--out", join(s3, "out"), *given)
    assert "there is no prompt list" in result.stderr
    result = mimir("generate", join(s3, "prompts.txt"), "--out", join(s3, "x.mp4"), *given)
    assert "name a directory" in result.stderr
    result = mimir("generate", PROMPT, "--out", join(s3, "made", "x.mp4"), *given)
    assert result.exit_code == 0, result.output
    assert list_files(join(s3, "made")) == [join(s3, "made", "x.json"), join(s3, "made", "x.mp4")]


def test_a_list_needs_a_directory(model: Path, tmp_path: Path) -> None:
    result = mimir("generate", "p.txt", "--out", str(tmp_path / "x.mp4"), "--model", str(model), "--steps", "2")
    assert result.exit_code == 2
    assert "name a directory" in result.stderr


def test_one_prompt_starts_no_ray(model: Path, tmp_path: Path) -> None:
    arguments = ["generate", PROMPT, "--out", str(tmp_path / "x.mp4"), "--model", str(model), "--steps", "2"]
    code = f"""
import sys
from mimir_ray.cli import main
try:
    main({arguments!r})
except SystemExit as end:
    assert end.code == 0, end.code
assert not {{"ray", "deepspeed", "cv2", "pandas"}} & set(sys.modules), sorted(sys.modules)
"""
    run = run_python("-c", code)
    assert run.returncode == 0, run.stderr


def test_a_list_becomes_requests_of_the_batch(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def batch(listed: PromptList, checkpoint: str, out: str, config: GenerationConfig, **options: bool) -> Any:
        given.update(listed=listed, checkpoint=checkpoint, out=out, **options)
        return SimpleNamespace(ok=2, quarantined=5, inputs=7, reasons={f"line {n} is bad": 6 - n for n in range(1, 6)})

    monkeypatch.setattr("mimir_ray.generation.batch.generate_batch", batch)
    monkeypatch.setattr("mimir_ray.cli.ray_cluster.connect", lambda address: given.update(address=address))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        '{"prompt": "a red circle", "seed": 3}\n{"text": "no prompt"}\n' + 2 * '{"prompt": "a blue square"}\n'
    )
    arguments = ("--model", str(model), "--seed", "9", "--address", "auto", "--retry-quarantined")
    result = mimir("generate", str(prompts), "--out", str(tmp_path / "videos"), *arguments)
    assert result.exit_code == 0, result.output
    assert "2 videos, 5 quarantined of 7" in result.stdout
    assert "5 failed: line 1 is bad\n" in result.stdout
    assert "line 3 is bad\n  and 2 more reasons\n" in result.stdout
    assert f"{tmp_path}/videos/index.jsonl" in result.stdout
    assert "1 line repeats a prompt: it is a further sample, with seed 10\n" in result.stdout
    assert [request.seed for request in given["listed"].requests] == [3, 9, 10]
    assert len(given["listed"].bad) == 1
    assert (given["checkpoint"], given["address"]) == (str(model), "auto")
    assert (given["overwrite"], given["retry_quarantined"]) == (False, True)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_list_runs_on_ray_and_a_bad_line_fails_nothing(model: Path, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "videos"
    prompts.write_text('{"prompt": "a red circle", "seed": 3}\n{"text": "no prompt"}\n')
    arguments = ("generate", str(prompts), "--out", str(out), "--model", str(model), "--steps", "2")
    result = mimir(*arguments)
    assert result.exit_code == 0, result.output
    assert "1 videos, 1 quarantined of 2" in result.stdout
    assert len(list((out / "videos").glob("*.mp4"))) == 1
    committed = Table(str(out / "generations")).shards()
    assert mimir(*arguments).exit_code == 0
    assert Table(str(out / "generations")).shards() == committed


def test_init_builds_a_fresh_mimir_that_generates(tmp_path: Path) -> None:
    base, llm, out = tiny_base(tmp_path / "base"), tiny_llm(tmp_path / "llm"), tmp_path / "fresh"
    given = ("--set", f"model.base={base}", "--set", f"model.llm={llm}")
    result = mimir("init", "--out", str(out), *given)
    assert result.exit_code == 0, result.output
    assert json.loads((out / "model_index.json").read_text())["_class_name"][-1] == "MimirPipeline"
    again = mimir("init", "--out", str(out), *given)
    assert (again.exit_code, "not an empty directory" in again.stderr) == (2, True)
    video = tmp_path / "x.mp4"
    assert mimir("generate", PROMPT, "--out", str(video), "--model", str(out), "--steps", "2").exit_code == 0
    assert probe(str(video)).frames == 9
