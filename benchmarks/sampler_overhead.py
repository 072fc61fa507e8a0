"""Our sampler against diffusers' ``CogVideoXPipeline`` on the same model, embeddings and seed, interleaved in one run.

    python -m benchmarks.sampler_overhead                        # two CPU cores, about a minute
    python -m benchmarks.sampler_overhead --device cuda --runs 40 --out benchmarks/sampler_overhead.json

The model has the size of the shapes world's (width 128, 4 layers, latents 3 x 16 x 8 x 8, 28 text tokens), small enough
for any overhead on the host to show. One pair is one whole guided run of each, in alternating order; both must end in
the same bits. The ratio is the median over the pairs of ours / theirs, with the quartiles; the target is at most 1.02.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from torch import Tensor

from mimir_ray.model.sampling import Sampler

LATENTS = (3, 16, 8, 8)
TEXT_LENGTH, TEXT_DIM = 28, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=30, help="pairs of runs for each scheduler")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    report = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "device": options.device,
        "steps": options.steps,
        "pairs": options.runs,
        **{name: compare(name, options.device, options.runs, options.steps) for name in ("ddim", "dpm")},
    }
    text = json.dumps(report, indent=2)
    if options.out is not None:
        options.out.write_text(text + "\n")
    print(text)  # noqa: T201


def compare(name: str, device: str, runs: int, steps: int) -> dict[str, float]:
    """Median seconds of a run of each and the quartiles of their ratio."""
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        time_embed_dim=128,
        text_embed_dim=TEXT_DIM,
        num_layers=4,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=TEXT_LENGTH,
    )
    vae = AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2)
    settings = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = (CogVideoXDDIMScheduler if name == "ddim" else CogVideoXDPMScheduler)(**settings)
    pipeline = CogVideoXPipeline(None, None, vae, transformer.eval(), scheduler).to(device)
    pipeline.set_progress_bar_config(disable=True)
    sampler = Sampler(transformer, scheduler)
    condition = torch.randn(1, TEXT_LENGTH, TEXT_DIM, device=device)
    null = torch.zeros_like(condition)

    def theirs() -> Tensor:
        latents: Tensor = pipeline(
            prompt_embeds=condition,
            negative_prompt_embeds=null,
            generator=torch.Generator("cpu").manual_seed(0),
            num_inference_steps=steps,
            guidance_scale=3.0,
            output_type="latent",
        ).frames
        return latents

    def ours() -> Tensor:
        state = sampler.start(
            LATENTS, [0], num_inference_steps=steps, guidance_scale=3.0, dtype=condition.dtype, device=device
        )
        *_, done = sampler.steps(state, condition, null)
        return done.latents

    for _ in range(3):
        assert torch.equal(ours(), theirs())
    pairs = []
    for run in range(runs):
        order = (ours, theirs) if run % 2 else (theirs, ours)
        seconds = {call: timed(call, device) for call in order}
        pairs.append((seconds[ours], seconds[theirs]))
    ratios = [mine / other for mine, other in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "ours_s": statistics.median(mine for mine, _ in pairs),
        "diffusers_s": statistics.median(other for _, other in pairs),
        "ratio": middle,
        "ratio_lower_quartile": low,
        "ratio_upper_quartile": high,
    }


def timed(call: Callable[[], Tensor], device: str) -> float:
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
