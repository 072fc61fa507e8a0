"""Prompt lists: every format, and what becomes of lines that are none."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimir_ray.config import UserError
from mimir_ray.generation.config import GenerationConfig, StageActors
from mimir_ray.generation.prompts import read_prompts


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_txt_is_a_prompt_a_line(tmp_path: Path, config: GenerationConfig) -> None:
    listed = read_prompts(write(tmp_path, "p.txt", "\ufeffa red ball\n\n  a blue box \r\na red ball\n"), config, "m")
    assert [request.prompt for request in listed.requests] == ["a red ball", "a blue box"]
    assert (listed.repeated, listed.bad) == (1, [])
    assert listed.requests[0] == config.request("a red ball", "m")


def test_jsonl_overrides_and_reports_bad_lines(tmp_path: Path, config: GenerationConfig) -> None:
    text = "\n".join(
        [
            '{"prompt": "a", "seed": 4, "num_inference_steps": 2, "guidance_scale": 5}',
            "not json",
            '{"prompt": ""}',
            '{"prompt": "b", "sed": 4}',
            '{"prompt": "c", "num_frames": "many"}',
            '["d"]',
            '{"prompt": "e", "seed": null}',
        ]
    )
    listed = read_prompts(write(tmp_path, "p.jsonl", text), config, "m")
    first, last = listed.requests
    assert (first.seed, first.num_inference_steps, first.guidance_scale, first.num_frames) == (4, 2, 5.0, 9)
    assert (last.prompt, last.seed) == ("e", config.seed)
    assert [bad.line for bad in listed.bad] == [2, 3, 4, 5, 6]
    reasons = [bad.reason for bad in listed.bad]
    assert "not JSON" in reasons[0]
    assert "'sed'" in reasons[2]
    assert "num_frames" in reasons[3]


def test_csv(tmp_path: Path, config: GenerationConfig) -> None:
    text = 'prompt,seed\n"a, and b",3\nc,\nd,x\ne,1,2\n'
    listed = read_prompts(write(tmp_path, "p.csv", text), config, "m")
    assert [(request.prompt, request.seed) for request in listed.requests] == [("a, and b", 3), ("c", 0)]
    assert [bad.line for bad in listed.bad] == [4, 5]


def test_parquet(tmp_path: Path, config: GenerationConfig) -> None:
    path = str(tmp_path / "p.parquet")
    pq.write_table(pa.table({"prompt": ["a", None, "b"], "seed": pa.array([1, 2, None], pa.int64())}), path)
    listed = read_prompts(path, config, "m")
    assert [(request.prompt, request.seed) for request in listed.requests] == [("a", 1), ("b", 0)]
    assert [bad.line for bad in listed.bad] == [2]


@pytest.mark.parametrize(("name", "text"), [("p.doc", "a"), ("p.csv", "text,seed\na,1\n"), ("absent.txt", None)])
def test_no_prompt_list(name: str, text: str | None, tmp_path: Path, config: GenerationConfig) -> None:
    path = str(tmp_path / name) if text is None else write(tmp_path, name, text)
    with pytest.raises(UserError, match="prompt"):
        read_prompts(path, config, "m")


def test_actors_are_ordered() -> None:
    with pytest.raises(ValueError, match="set it to 2"):
        StageActors(min_actors=2, max_actors=1)
