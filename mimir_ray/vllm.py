"""Text from vLLM through ``ray.data.llm``: a dataset of prompts becomes one of answers.

    engine = vllm_engine(TextEngineConfig(model="Qwen/Qwen2-VL-7B-Instruct", images=4))
    rows = [{"prompt": "...", "images": [jpeg], "sampling": '{"max_tokens": 99}'}]
    answers = engine(ray.data.from_items(rows))

A row that goes in has

    prompt      what the model reads, in its chat format: text, or token ids (all rows alike)
    images      JPEGs that the prompt has places for, in order; left out or empty for text alone
    sampling    arguments of ``vllm.SamplingParams`` as JSON; a row with a ``seed`` draws numbers of its own
    error       left out or empty; a row whose error says something needs no prompt: it passes by the engine

and comes out with these instead, beside all its other columns:

    tokens                  ids of the answer; the end token, where reached, is the last
    text                    the answer without special tokens
    first_ids, first_log_p  the likeliest first tokens, as many as ``logprobs`` in ``sampling`` asks for, and their
                            log-probabilities before any temperature; empty where it asks for none
    error                   empty, or the class and the message of what went wrong with this row alone

Order is not kept. A ``TextEngine`` is anything that does this, so tests of what is around it need no GPU. Prompts come
rendered because whoever asks has the model's own tokenizer at hand, and asks for the same tokens on every road.
"""

import importlib.util
import io
import json
from collections import UserDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from PIL.JpegImagePlugin import JpegImageFile
from pydantic import Field

from mimir_ray.config import Config, UserError
from mimir_ray.dataflow import Row
from mimir_ray.room import Need

if TYPE_CHECKING:
    from ray.data import Dataset

TextEngine = Callable[["Dataset"], "Dataset"]

_ERROR = "__inference_error__"
"""Ray's column for what went wrong with a row. Its stages let a row pass by in which it is not empty."""
_ASKED = ("prompt", "images", "sampling", "error")


class VllmPool(Config):
    """The vLLM engines of one stage, and what each one takes."""

    engines: int = Field(1, ge=1)
    """Copies of the model, each on GPUs of its own."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs of one engine: a model that does not fit one is laid over several."""
    max_model_len: int | None = Field(None, ge=1)
    """Tokens of a prompt and its answer together, images included; the model's own limit where None. A row that needs
    more fails by itself. The cache of keys and values must hold one such row, so a GPU may need a lower limit."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """Share of a GPU's memory that vLLM takes for weights and cache."""
    batch: int = Field(32, ge=1)
    """Rows handed over at a time. vLLM interleaves those of eight such batches; a row that takes its engine down, where
    others only fail, costs these and as many that wait."""
    max_restarts: int = Field(3, ge=0)
    """The restarts of an engine that died. Ray's default is for ever: a row that kills its engine would have no end."""

    def need(self, setting: str) -> Need:
        """What the engines of the section ``setting`` hold; the GPUs of one may be of several machines."""
        engines = "engines" if self.tensor_parallel_size == 1 else ""
        return Need(setting, self.engines * self.tensor_parallel_size, gpus=1.0, fields=(engines, "", ""))


class TextEngineConfig(Config):
    """A model, and what will be asked of it."""

    model: str
    """Directory or hub id."""
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    images: int = Field(0, ge=0)
    """Images in one prompt at most."""
    logprobs: int = Field(0, ge=0)
    """The largest ``logprobs`` that a row asks for."""
    pool: VllmPool = VllmPool()


def vllm_engine(config: TextEngineConfig) -> TextEngine:
    """The engine that runs vLLM on GPUs of the cluster. Raises UserError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            f"{config.model} is to be run by vLLM, which is not installed: pip install 'mimir-ray[vllm]' on every node "
            "(Linux with NVIDIA GPUs), or set engine=transformers"
        )
    return lambda dataset: engine_around(ray_processor(config))(dataset)  # Ray need not run yet


def engine_around(processor: Any) -> TextEngine:
    """A ``ray.data.llm`` processor as an engine."""

    def engine(dataset: "Dataset") -> "Dataset":
        answered: Dataset = processor(dataset.map(to_ray))
        return answered.map(from_ray)

    return engine


def ray_processor(config: TextEngineConfig) -> Any:
    """The ``ray.data.llm`` processor for rows of ``to_ray``; of its stages only the engine is on."""
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    pool = config.pool
    arguments: dict[str, Any] = {
        "dtype": config.dtype,
        "tensor_parallel_size": pool.tensor_parallel_size,
        "gpu_memory_utilization": pool.gpu_memory_utilization,
        "max_logprobs": config.logprobs,
        "limit_mm_per_prompt": {"image": config.images, "video": 0} if config.images else None,
        "max_model_len": pool.max_model_len,
        "revision": config.revision,
    }
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=config.model,
            engine_kwargs={name: value for name, value in arguments.items() if value is not None},
            concurrency=(pool.engines, pool.engines),
            batch_size=pool.batch,
            should_continue_on_error=True,
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
        )
    )
    for name in processor.list_stage_names():
        stage = processor.get_stage_by_name(name)
        stage.map_batches_kwargs.update(max_restarts=pool.max_restarts, max_task_retries=1)
    return processor


def to_ray(row: Row) -> Row:
    """A row as Ray's engine stage takes it. Other columns travel in one of their own, out of the way of its names."""
    if error := row.get("error"):
        return {"carried": _carried(row), _ERROR: error}
    prompt, images = row["prompt"], row.get("images")
    asked = {"prompt": prompt} if isinstance(prompt, str) else {"tokenized_prompt": [int(token) for token in prompt]}
    return {
        **asked,
        "multimodal_data": None if images is None or not len(images) else {"image": [Still(jpeg) for jpeg in images]},
        "sampling_params": Arguments(json.loads(row["sampling"])),
        "carried": _carried(row),
        _ERROR: "",
    }


def _carried(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in _ASKED}


def from_ray(row: Row) -> Row:
    """A row as Ray's engine stage leaves it, without all that vLLM tells and nobody asked for."""
    if row[_ERROR]:
        return {**row["carried"], **_NO_ANSWER, "error": row[_ERROR]}
    # A list with a mapping a token, from the id to what vLLM knows of it.
    first: dict[Any, Any] = dict(row["logprobs"][0]) if row.get("logprobs") else {}
    return {
        **row["carried"],
        "tokens": [int(token) for token in row["generated_tokens"]],
        "text": row["generated_text"],
        "first_ids": [int(token) for token in first],
        "first_log_p": [float(found["logprob"]) for found in first.values()],
        "error": "",
    }


_NO_ANSWER: Row = {"tokens": [], "text": "", "first_ids": [], "first_log_p": []}


class Arguments(UserDict[str, Any]):
    """Keyword arguments that travel pickled. As an Arrow struct, what one row sets would be None in its neighbours, and
    the seeds of those that set one would turn into floats."""


class Still(JpegImageFile):
    """An image for vLLM that travels between processes as the JPEG it is, where others travel as raw pixels."""

    def __init__(self, jpeg: bytes) -> None:
        super().__init__(io.BytesIO(jpeg))
        self._jpeg = jpeg

    def __reduce__(self) -> tuple[type["Still"], tuple[bytes]]:
        return Still, (self._jpeg,)
