"""The road through `ray.data.llm`: Ray's own processor and engine stage, on a stand-in for the package vllm."""

import io
import pickle
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mimir_ray.config import UserError
from mimir_ray.vllm import Still, TextEngine, TextEngineConfig, VllmPool, engine_around, ray_processor, vllm_engine

ray_needed = pytest.mark.usefixtures("ray_session")
SAMPLING = '{"max_tokens": 4, "temperature": 0.0}'


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> TextEngine:
    from tests.standin_vllm import on_stand_in

    config = TextEngineConfig(model=str(tmp_path_factory.mktemp("model")), images=2, logprobs=2, pool=VllmPool(batch=2))
    return lambda dataset: engine_around(on_stand_in(ray_processor(config)))(dataset)


def jpeg(width: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, width, 3), 200, np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def answers(engine: TextEngine, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    import ray.data

    return sorted(engine(ray.data.from_items(rows)).take_all(), key=lambda row: row["name"])


@ray_needed
def test_prompts_with_images_become_answers_beside_their_other_columns(engine: TextEngine) -> None:
    rows: list[dict[str, Any]] = [
        {"name": f"{index}", "prompt": f"ab{index}", "sampling": f'{{"max_tokens": 4, "seed": {2**62 + index}}}'}
        | {"images": [jpeg(8 + index), jpeg(16)][: index + 1], "params": index, "error": ""}
        for index in range(2)
    ]
    rows.append({"name": "c", "error": "has no seed, which must not make the seeds of the others floats"})
    first, second, _ = answers(engine, rows)
    assert first["text"] == f"0ba [(8, 8)] {2**62}"
    assert second["text"] == f"1ba [(9, 8), (16, 8)] {2**62 + 1}"
    assert list(second["tokens"]) == [ord("1"), ord("b"), ord("a"), 0]
    assert (first["params"], second["params"]) == (0, 1), "a name that Ray has uses for is carried unharmed"
    assert not first["error"]
    assert not len(first["first_ids"])
    assert set(first) == {"name", "params", "tokens", "text", "first_ids", "first_log_p", "error"}


@ray_needed
def test_token_ids_go_in_as_they_are(engine: TextEngine) -> None:
    rows = [{"name": str(index), "prompt": [5] * index + [6], "sampling": SAMPLING} for index in range(3)]
    assert [list(row["tokens"]) for row in answers(engine, rows)] == [[6, 0], [6, 5, 0], [6, 5, 5, 0]]


@ray_needed
def test_the_likeliest_first_tokens_come_back_where_they_are_asked_for(engine: TextEngine) -> None:
    rows = [
        {"name": "asks", "prompt": "a", "sampling": '{"max_tokens": 4, "logprobs": 2}'},
        {"name": "does not", "prompt": "a", "sampling": SAMPLING},
    ]
    asks, does_not = answers(engine, rows)
    assert list(zip(asks["first_ids"], asks["first_log_p"], strict=True)) == [(7, -0.25), (11, -1.5)]
    assert not len(does_not["first_ids"])


@ray_needed
def test_a_row_that_fails_says_why_and_one_with_nothing_to_ask_passes_by(engine: TextEngine) -> None:
    rows = [
        {"name": "a", "prompt": "too long", "sampling": SAMPLING, "images": [], "error": ""},
        {"name": "b", "prompt": "good", "sampling": SAMPLING, "images": [jpeg(8)], "error": ""},
        {"name": "c", "error": "cannot be decoded"},
    ]
    failed, good, passed = answers(engine, rows)
    assert failed["error"].startswith("ValueError: The decoder prompt (length 8) is longer")
    assert good["text"].startswith("doog")
    assert passed["error"] == "cannot be decoded"
    assert set(failed) == set(good) == set(passed)


@ray_needed
def test_a_row_that_kills_its_engine_costs_what_the_engine_had_at_work(engine: TextEngine) -> None:
    import ray.data

    prompts = ["crash" if index == 3 else "fine" for index in range(120)]
    rows = [{"name": str(index), "prompt": prompt, "sampling": SAMPLING} for index, prompt in enumerate(prompts)]
    dataset = ray.data.from_items(rows, override_num_blocks=120)
    dataset.context.max_errored_blocks = -1
    left = {row["name"] for row in engine(dataset).take_all()}
    assert "3" not in left
    assert len(left) >= 120 - 2 * 2 * 8, "two batches wait for each of eight that run, and there are two rows in one"


def test_what_vllm_is_told(tmp_path: Any, ray_session: None) -> None:
    pool = VllmPool(engines=3, tensor_parallel_size=2, max_model_len=4096, gpu_memory_utilization=0.5)
    processor = ray_processor(TextEngineConfig(model=str(tmp_path), revision="abc", dtype="bfloat16", pool=pool))
    assert processor.list_stage_names() == ["vLLMEngineStage"]
    stage = processor.get_stage_by_name("vLLMEngineStage")
    told = stage.fn_constructor_kwargs["engine_kwargs"]
    assert told["tensor_parallel_size"] == 2
    assert (told["max_model_len"], told["gpu_memory_utilization"]) == (4096, 0.5)
    assert (told["dtype"], told["revision"]) == ("bfloat16", "abc")
    assert "limit_mm_per_prompt" not in told
    compute = stage.map_batches_kwargs["compute"]
    assert (compute.min_size, compute.max_size) == (3, 3)
    assert stage.map_batches_kwargs["max_restarts"] == 3


def test_a_still_travels_as_its_jpeg() -> None:
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    )
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    still = Still(stream.getvalue())
    still.load()
    sent = pickle.dumps(still)
    assert len(sent) < len(stream.getvalue()) + 200
    assert np.array_equal(np.asarray(pickle.loads(sent)), np.asarray(still))


def test_a_missing_vllm_is_a_sentence_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"pip install 'mimir-ray\[vllm\]'.* or set engine=transformers"):
        vllm_engine(TextEngineConfig(model="Qwen/Qwen2-VL-7B-Instruct"))
