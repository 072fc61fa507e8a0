"""The parts of ``benchmarks.gpu``, in a process that it starts: what they found goes to a file, a line of JSON each.

    python -m benchmarks.gpu_parts 5b cuda sampling decoding record.jsonl

A line without ``part`` is about the machine, one with ``part`` and ``figure`` is a figure, and one with ``part`` alone
tells how it ended: ``done``, or why not.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from diffusers import CogVideoXDPMScheduler, CogVideoXPipeline
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_bench import DTYPE, SIZES, Bench, machine, reason_of
from mimir_ray.model.config import SEMANTIC_TOKENS, FuserConfig
from mimir_ray.model.diffusion import Schedule
from mimir_ray.model.flops import forward_flops
from mimir_ray.model.latents import decode_frames
from mimir_ray.model.sampling import Sampler
from mimir_ray.model.token_fuser import TokenFuser
from mimir_ray.model.tokens import TextTokens
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.batches import Batch
from mimir_ray.training.engine import Engine
from mimir_ray.training.module import TrainingModule, select_trained
from mimir_ray.training.sizing.memory import GIB, Sizes, estimate_memory

STEPS = 3
"""Guided steps of one run of sampling."""


def sampling(bench: Bench) -> None:
    a, b = bench.random(bench.size.matrix, bench.size.matrix), bench.random(bench.size.matrix, bench.size.matrix)
    bench.measure({"matrix product": lambda: [a @ b for _ in range(10)]}, 2 * bench.size.matrix**3, per=10)
    _guided_steps(bench, bench.transformer(), beside_diffusers=True)


def compiled(bench: Bench) -> None:
    transformer = bench.transformer()
    for block in transformer.transformer_blocks:  # one graph serves them all
        block.compile()
    _guided_steps(bench, transformer, beside_diffusers=False)


def _guided_steps(bench: Bench, transformer: Any, *, beside_diffusers: bool) -> None:
    scheduler = _scheduler()
    shape = bench.latent_shape()
    length, width = transformer.config.max_text_seq_length + SEMANTIC_TOKENS, transformer.config.text_embed_dim
    condition, null = bench.random(1, length, width), bench.random(1, length, width)
    sampler = Sampler(transformer, scheduler)
    pipeline = CogVideoXPipeline(None, None, None, transformer, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    frames, height, width = bench.size.video
    latents = {}

    def ours() -> None:
        start = sampler.start(
            shape, [0], num_inference_steps=STEPS, guidance_scale=6.0, dtype=DTYPE, device=bench.device
        )
        *_, end = sampler.steps(start, condition, null)
        latents["mimir"] = end.latents

    def theirs() -> None:
        latents["diffusers"] = pipeline(
            prompt_embeds=condition,
            negative_prompt_embeds=null,
            num_frames=frames,
            height=height,
            width=width,
            generator=torch.Generator("cpu").manual_seed(0),
            num_inference_steps=STEPS,
            guidance_scale=6.0,
            output_type="latent",
        ).frames

    flops = 2 * forward_flops(transformer.config, shape, length)
    calls = {"mimir": ours, "diffusers": theirs} if beside_diffusers else {"mimir": ours}
    seconds = bench.measure(calls, flops, per=STEPS, latents=shape, text_tokens=length, steps=STEPS)
    if beside_diffusers:
        ratios = [mine / other for mine, other in zip(seconds["mimir"], seconds["diffusers"], strict=True)]
        equal = torch.equal(latents["mimir"], latents["diffusers"])
        bench.figure("mimir / diffusers", ratio=statistics.median(ratios), runs=ratios, same_latents=equal)


def decoding(bench: Bench) -> None:
    vae = bench.vae()
    latents = bench.random(1, *bench.latent_shape())
    for name in ("whole", "tiled"):
        if name == "tiled":
            vae.enable_tiling()
        with bench.within_memory(name):
            with FlopCounterMode(display=False) as counter:
                decode_frames(vae, latents)
            bench.measure({name: lambda: decode_frames(vae, latents)}, counter.get_total_flops())


def full(bench: Bench) -> None:
    _training(bench, "full", zero_stage=3, offload="optimizer")


def lora(bench: Bench) -> None:
    _training(bench, "lora")


def fuser(bench: Bench) -> None:
    _training(bench, "fuser")


def _training(bench: Bench, train: Literal["full", "lora", "fuser"], **fields: Any) -> None:
    """One sample a step, with gradient checkpointing."""
    config = TrainingConfig(
        steps=1000,
        batch_size=1,
        learning_rate=1e-5,
        train=train,
        precision="bf16",
        gradient_checkpointing=True,
        **fields,
    )
    transformer = bench.transformer()
    text = {"text_dim": transformer.config.text_embed_dim, "text_length": transformer.config.max_text_seq_length}
    token_fuser = bench.built(lambda: TokenFuser.build(FuserConfig(), llm_dim=bench.size.llm_dim, **text))
    sizes = Sizes.of(transformer, token_fuser)
    select_trained(transformer, config)
    module = TrainingModule(transformer, token_fuser, Schedule.from_scheduler(_scheduler())).to(DTYPE)
    batch = _batch(bench, module)
    with bench.within_memory("plain"):
        try:
            _plain_steps(bench, module, config, batch)
        finally:
            module.zero_grad()
    if find_spec("deepspeed") is None:
        bench.figure("mimir", skipped="DeepSpeed is not installed")
        return
    with bench.within_memory("mimir"):
        _engine_steps(bench, module, config, batch, sizes)


def _plain_steps(bench: Bench, module: TrainingModule, config: TrainingConfig, batch: Batch) -> None:
    module.train()
    module.transformer.enable_gradient_checkpointing()
    module.schedule = module.schedule.to(bench.device)
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        module.parameter_groups(config), betas=config.betas, weight_decay=config.weight_decay, fused=True
    )

    def step() -> None:
        loss, _ = module(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    bench.measure({"plain": step}, module.flops(batch))


def _engine_steps(bench: Bench, module: TrainingModule, config: TrainingConfig, batch: Batch, sizes: Sizes) -> None:
    frames, channels, height, width = batch.latents.shape[1:]
    estimate = estimate_memory(sizes, config, (frames, channels, height, width), gpu=bench.device.type == "cuda")
    flops, used = module.flops(batch), _host_used()
    _join_group(bench.device)
    engine = Engine(module, config, bench.device)
    steps = iter(range(config.steps))
    # The first step makes the moments, which are most of what is in main memory.
    engine.step(batch, next(steps))
    bench.measure(
        {"mimir": lambda: engine.step(batch, next(steps))},
        flops,
        zero_stage=config.zero_stage,
        offload=config.offload,
        trained_parameters=sizes.trained(config),
        estimated_gib=(estimate.total - estimate.runtime) / GIB,
        host_estimated_gib=estimate.host / GIB,
        host_used_gib=(_host_used() - used) / GIB,
    )


def _batch(bench: Bench, module: TrainingModule) -> Batch:
    shape, config = bench.latent_shape(), module.token_fuser.config
    length, llm_dim = config.text_length, config.llm_dim
    one = torch.ones(1, device=bench.device)
    return Batch(
        clip_ids=("random",),
        latents=bench.random(1, *shape, dtype=torch.float32),
        noise=bench.random(1, *shape, dtype=torch.float32),
        timesteps=torch.tensor([500], device=bench.device),
        keep=one,
        weight=one,
        tokens=TextTokens(
            bench.random(1, length, config.text_dim),
            bench.random(1, length, llm_dim),
            torch.ones(1, length, dtype=torch.bool, device=bench.device),
            bench.random(1, SEMANTIC_TOKENS, llm_dim),
        ),
    )


def _scheduler() -> Any:
    """CogVideoX-5B's."""
    return CogVideoXDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=1.0, timestep_spacing="trailing"
    )


def _join_group(device: torch.device) -> None:
    """The process group of one that DeepSpeed works in."""
    if dist.is_initialized():
        return
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    meeting = Path(tempfile.mkdtemp()) / "group"
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{meeting}", rank=0, world_size=1)


def _host_used() -> int:
    """Bytes of the machine's memory, pinned ones too, which no process's own count has."""
    import psutil

    memory = psutil.virtual_memory()
    return int(memory.total - memory.available)


PARTS: dict[str, Callable[[Bench], None]] = {
    part.__name__: part for part in (sampling, decoding, lora, fuser, compiled, full)
}


def main() -> None:
    size, device, *parts, path = sys.argv[1:]
    where = torch.device(device, 0) if device == "cuda" else torch.device(device)
    with Path(path).open("w", buffering=1) as stream:

        def record(row: dict[str, Any]) -> None:
            stream.write(json.dumps(row) + "\n")

        record(machine(SIZES[size], where))
        for part in parts:
            began = time.perf_counter()
            ended = "done"
            try:
                PARTS[part](Bench(SIZES[size], where, part, record))
            except Exception as error:
                ended = reason_of(error)
            record({"part": part, "ended": ended, "wall_s": time.perf_counter() - began})


if __name__ == "__main__":
    main()
