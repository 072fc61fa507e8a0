"""Prompt lists: every format, and what becomes of lines that are none."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimir_ray.config import UserError
from mimir_ray.generation.config import GenerationConfig, StageActors
from mimir_ray.generation.prompts import BadLine, PromptList, read_prompts
from mimir_ray.records import GenerationRequest


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_txt_is_a_prompt_a_line(tmp_path: Path, config: GenerationConfig) -> None:
    listed = read_prompts(write(tmp_path, "p.txt", "\ufeffa red ball\n\n  a blue box \r\na red ball\n"), config, "m")
    expected = [config.request("a red ball", "m"), config.request("a blue box", "m")]
    assert listed.requests == [*expected, config.request("a red ball", "m", seed=config.seed + 1)]
    assert listed.bad == []
    assert [line for line, _ in listed.lines] == [1, 3, 4], "as an editor counts them"


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


def seeds(listed: PromptList) -> list[int]:
    return [meant.seed for _, meant in listed.lines if isinstance(meant, GenerationRequest)]


def test_a_line_that_repeats_another_one_is_a_further_sample(tmp_path: Path, config: GenerationConfig) -> None:
    config = config.model_copy(update={"seed": 40})
    few = read_prompts(write(tmp_path, "few.txt", "a\nb\na\na\nb\n"), config, "m")
    assert seeds(few) == [40, 40, 41, 42, 41]
    assert len(few.requests) == 5
    assert list(few.repeats()) == ["3 lines repeat a prompt: they are further samples, with seeds 41, 42"]
    more = read_prompts(write(tmp_path, "more.txt", "a\nb\na\na\nb\na\n"), config, "m")
    assert more.requests == [*few.requests, config.request("a", "m", seed=43)], "one more line is one more video"
    many = read_prompts(write(tmp_path, "many.txt", "a\n" * 30), config, "m")
    assert list(many.repeats()) == ["29 lines repeat a prompt: they are further samples, with seeds 41 to 69"]
    once = read_prompts(write(tmp_path, "once.txt", "a\nb\n"), config, "m")
    assert list(once.repeats()) == []


def test_lines_that_name_their_seed_are_one_video(tmp_path: Path, config: GenerationConfig) -> None:
    text = "\n".join(
        [
            '{"prompt": "a"}',
            '{"prompt": "a", "seed": 2}',
            '{"prompt": "a", "seed": 2}',
            '{"prompt": "a"}',
            "no json",
            '{"prompt": "a"}',
            '{"prompt": "a", "num_frames": 17}',
            '{"prompt": "a", "seed": 0}',
        ]
    )
    listed = read_prompts(write(tmp_path, "p.jsonl", text), config, "m")
    assert seeds(listed) == [0, 2, 2, 1, 3, 0, 0], "a seed that a line names is nobody's further sample"
    assert len(listed.requests) == 5
    assert list(listed.repeats()) == [
        "2 lines repeat a prompt: they are further samples, with seeds 1, 3",
        "2 lines repeat a prompt and its seed: they share the video of the first of them",
    ]
    assert [line for line, _ in listed.lines] == list(range(1, 9))
    assert isinstance(listed.lines[4][1], BadLine)


def test_a_further_sample_of_the_last_seed_has_the_first(tmp_path: Path, config: GenerationConfig) -> None:
    config = config.model_copy(update={"seed": 2**63 - 1})
    assert seeds(read_prompts(write(tmp_path, "p.txt", "a\na\n"), config, "m")) == [2**63 - 1, 0]


@pytest.mark.parametrize(("name", "text"), [("p.doc", "a"), ("p.csv", "text,seed\na,1\n"), ("absent.txt", None)])
def test_no_prompt_list(name: str, text: str | None, tmp_path: Path, config: GenerationConfig) -> None:
    path = str(tmp_path / name) if text is None else write(tmp_path, name, text)
    with pytest.raises(UserError, match="prompt"):
        read_prompts(path, config, "m")


def test_actors_are_ordered() -> None:
    with pytest.raises(ValueError, match="set it to 2"):
        StageActors(min_actors=2, max_actors=1)
