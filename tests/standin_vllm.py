"""Stands in for the package vllm, with the names that Ray's engine stage uses; its model is a few lines of arithmetic.

It answers with the words of the prompt, backwards. A prompt that says "too long" fails, one that says "crash" takes
its engine's process down, as a dead engine makes Ray's stage do.
"""

import os
import sys
import types
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF

END = 0
LIKELIEST = [(7, -0.25), (11, -1.5), (13, -4.0)]


@dataclass
class Logprob:
    logprob: float
    rank: int
    decoded_token: str


class SamplingParams:
    def __init__(
        self,
        max_tokens: int = 16,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
        logprobs: int | None = None,
        stop_token_ids: list[int] | None = None,
        structured_outputs: Any = None,
    ) -> None:
        self.max_tokens, self.seed, self.logprobs = max_tokens, seed, logprobs
        assert type(max_tokens) is int
        assert seed is None or type(seed) is int


@dataclass
class CompletionOutput:
    token_ids: list[int]
    text: str
    logprobs: list[dict[int, Logprob]] | None


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True
    metrics: Any = None
    prompt: str | None = None
    prompt_logprobs: Any = None


class PoolingRequestOutput:
    pass


@dataclass
class AsyncEngineArgs:
    model: str
    runner: str
    distributed_executor_backend: str
    enable_log_requests: bool
    dtype: str
    tensor_parallel_size: int
    gpu_memory_utilization: float
    max_logprobs: int
    limit_mm_per_prompt: dict[str, int] = field(default_factory=dict)
    max_model_len: int | None = None
    revision: str | None = None

    def create_engine_config(self) -> Any:
        return types.SimpleNamespace(
            scheduler_config=types.SimpleNamespace(max_num_seqs=4),
            parallel_config=types.SimpleNamespace(pipeline_parallel_size=1),
        )


class AsyncLLMEngine:
    def __init__(self, args: AsyncEngineArgs) -> None:
        self.args = args

    @classmethod
    def from_engine_args(cls, args: AsyncEngineArgs, stat_loggers: Any) -> "AsyncLLMEngine":
        return cls(args)

    async def generate(
        self, request_id: str, prompt: dict[str, Any], sampling_params: SamplingParams, lora_request: Any
    ) -> AsyncIterator[RequestOutput]:
        assert lora_request is None
        images = (prompt["multi_modal_data"] or {}).get("image", [])
        assert len(images) <= self.args.limit_mm_per_prompt.get("image", 0)
        sizes = [image.convert("RGB").size for image in images]
        ids = prompt.get("prompt_token_ids") or [ord(letter) for letter in prompt["prompt"]]
        assert all(type(token) is int for token in ids)
        said = prompt.get("prompt") or ""
        if "crash" in said:
            os._exit(1)
        if "too long" in said:
            raise ValueError(f"The decoder prompt (length {len(ids)}) is longer than the maximum model length")
        answer = [*ids[: -sampling_params.max_tokens : -1], END]
        wanted = sampling_params.logprobs or 0
        assert wanted <= self.args.max_logprobs
        best = {token: Logprob(log_p, rank, "?") for rank, (token, log_p) in enumerate(LIKELIEST[:wanted], 1)}
        text = f"{said[::-1]} {sizes} {sampling_params.seed}"
        yield RequestOutput(ids, [CompletionOutput(answer, text, [best] * len(answer) if wanted else None)])

    async def do_log_stats(self) -> None:
        pass

    def shutdown(self) -> None:
        pass


class OnStandIn(vLLMEngineStageUDF):  # type: ignore[misc]
    """Ray's engine stage, in a process where `import vllm` finds this module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        this: Any = sys.modules[__name__]
        this.outputs = this
        metrics: Any = types.ModuleType("vllm.v1.metrics.ray_wrappers")
        metrics.RayPrometheusStatLogger = object
        inputs: Any = types.ModuleType("vllm.inputs.llm")
        inputs.TokensPrompt = inputs.TextPrompt = dict
        sys.modules.update({"vllm": this, "vllm.inputs": inputs, "vllm.inputs.llm": inputs, metrics.__name__: metrics})
        super().__init__(*args, **kwargs)


def on_stand_in(processor: Any) -> Any:
    """A processor of `ray_processor` whose engine runs here, on no GPU."""
    stage = processor.get_stage_by_name("vLLMEngineStage")
    stage.fn = OnStandIn
    stage.map_batches_kwargs.update(num_gpus=0, num_cpus=0.5)
    return processor
