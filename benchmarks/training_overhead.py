"""What Ray Train and DeepSpeed ZeRO-2 cost a training step, against a plain torch loop on the same batches.

    python benchmarks/training_overhead.py          # 1 and 2 workers; writes training_overhead.json beside it

Both loops run in the same Ray Train workers on the same model (the size of the shapes world: 1.7M parameters,
76 tokens), tables, batches, optimiser and clipping, in turns of 20 steps, so that whatever else the machine does hits
both alike:

    ours    ``run_steps``: DeepSpeed ZeRO-2, rows of metrics every 10 steps
    plain   DistributedDataParallel (one worker: the bare module), loss read every 10 steps

The ratio is the median over turns of ours / plain after one turn of warm-up. A report of a checkpoint is timed apart.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mimir_ray.model.config import ModelConfig
from mimir_ray.records import SCHEMAS, pack_array
from mimir_ray.storage import Table
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.samples import open_data

logger = logging.getLogger(__name__)

TURN = 20
TEXT_LENGTH, TEXT_DIM, LLM_DIM = 28, 128, 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=2**28, log_to_driver=False)
    results = []
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_checkpoint(root)
        write_tables(root / "data", clips=256)
        for workers in arguments.workers:
            result = measure(root, workers, arguments.turns, arguments.batch_size)
            results.append(result)
            logger.info("%s", json.dumps(result))
    report = {"cpus": os.cpu_count(), "load_average": os.getloadavg()[0], "results": results}
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def measure(root: Path, workers: int, turns: int, batch_size: int) -> dict[str, Any]:
    """Run both loops in ``workers`` workers; times are of rank 0."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    config = TrainingConfig(
        steps=(turns + 1) * TURN, batch_size=batch_size, workers=workers, learning_rate=6e-4, device="cpu"
    )
    work: Any = compare
    began_unix_s = time.time()
    fitted: Any = TorchTrainer(
        work,
        train_loop_config={"root": root, "config": config},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=workers),
        run_config=ray.train.RunConfig(name=f"workers-{workers}", storage_path=str(root / "runs")),
    ).fit()
    found = fitted.return_value
    ratios = [ours / plain for ours, plain in zip(found["ours"], found["plain"], strict=True)]
    return {
        "workers": workers,
        "batch_size": batch_size,
        "turns": turns,
        "ours_ms": round(1e3 * statistics.median(found["ours"]) / TURN, 2),
        "plain_ms": round(1e3 * statistics.median(found["plain"]) / TURN, 2),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(x, 3) for x in statistics.quantiles(ratios, n=4)[::2]],
        "ratio_of_fastest_turns": round(min(found["ours"]) / min(found["plain"]), 3),
        "largest_loss_difference": found["largest_loss_difference"],
        "checkpoint_ms": round(1e3 * found["checkpoint"], 1),
        "start_s": round(found["ready_unix_s"] - began_unix_s, 1),
    }


def compare(settings: dict[str, Any]) -> dict[str, Any]:
    """In a worker: both loops in turns."""
    import ray.train
    import torch
    import torch.distributed as dist

    from mimir_ray.training.data.batches import Batches
    from mimir_ray.training.engine import Engine, learning_rate_at
    from mimir_ray.training.loop import run_steps
    from mimir_ray.training.module import load_start
    from mimir_ray.training.state.pieces import TrainingProgress

    torch.set_num_threads(1)
    root, config = settings["root"], settings["config"]
    model = ModelConfig(base=str(root), llm=str(root / "llm"))
    data = open_data(str(root / "data"), True, config.caption_weights)
    rank, world = dist.get_rank(), dist.get_world_size()
    first, second = load_start(model, config), load_start(model, config)
    ready = time.time()

    def batches() -> Batches:
        return Batches(
            data,
            config,
            scaling_factor=first.scaling_factor,
            timesteps=len(first.module.schedule),
            text_length=first.text_length,
            rank=rank,
            world=world,
        )

    engine, ours_batches, plain_batches = Engine(first.module, config, torch.device("cpu")), batches(), batches()
    module = second.module.train()
    wrapped: Any = module if world == 1 else torch.nn.parallel.DistributedDataParallel(module)
    groups = module.parameter_groups(config)
    optimizer = torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay, fused=True)
    losses: dict[str, list[float]] = {"ours": [], "plain": []}

    def ours(done: int) -> None:
        part = config.model_copy(update={"steps": done + TURN})
        run_steps(
            engine,
            ours_batches,
            part,
            TrainingProgress(done, done),
            record=lambda row: losses["ours"].append(row["loss"]),
            checkpoint=lambda row: None,
        )

    def plain(done: int) -> None:
        total = torch.zeros(())
        for step, batch in enumerate(plain_batches.ahead(done, done + TURN), start=done):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate_at(step, config)
            loss, _ = wrapped(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach()
            if (step + 1) % config.log_every == 0:
                dist.all_reduce(total)
                losses["plain"].append(float(total) / world / config.log_every)
                total.zero_()

    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for done in range(0, config.steps, TURN):
        for name, loop in (("ours", ours), ("plain", plain)):
            dist.barrier()
            began = time.perf_counter()
            loop(done)
            dist.barrier()
            if done:
                times[name].append(time.perf_counter() - began)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        engine.save(Path(directory), config.steps)
        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(directory))
    difference = max(abs(a - b) for a, b in zip(losses["ours"], losses["plain"], strict=True))
    return {
        **times,
        "largest_loss_difference": difference,
        "checkpoint": time.perf_counter() - began,
        "ready_unix_s": ready,
    }


def write_checkpoint(root: Path) -> None:
    """What training reads of a checkpoint, random, in the size of the shapes world."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
    from transformers import Phi3Config

    (root / "model_index.json").write_text(json.dumps({"_class_name": "CogVideoXPipeline"}))
    CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=16,
        out_channels=16,
        num_layers=4,
        text_embed_dim=TEXT_DIM,
        time_embed_dim=128,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=TEXT_LENGTH,
    ).save_pretrained(root / "transformer")
    AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 8), norm_num_groups=2).save_config(root / "vae")
    CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=3.0, timestep_spacing="trailing"
    ).save_pretrained(root / "scheduler")
    Phi3Config(hidden_size=LLM_DIM, vocab_size=64, pad_token_id=0).save_pretrained(root / "llm")


def write_tables(root: Path, clips: int) -> None:
    """Random latents and tokens in the size of the shapes world, one shard."""
    rng = np.random.default_rng(0)

    def states(*shape: int) -> bytes:
        return pack_array(rng.standard_normal(shape, dtype=np.float32), "float16")

    fine = {"dtype": "float16", "status": "ok", "reason": ""}
    caption = {"kind": "long", "text": "words"} | fine
    latents, t5, llm = [], [], []
    for index in range(clips):
        key = {"clip_id": f"clip{index:04d}"}
        latents.append(
            {**key, "moments": states(3, 32, 8, 8), "shape": [3, 32, 8, 8], "frame_indices": list(range(9)), **fine}
        )
        t5.append({**key, "states": states(TEXT_LENGTH, TEXT_DIM), "length": TEXT_LENGTH, "width": TEXT_DIM, **caption})
        answer = {"seed": 0, "token_ids": [1] * 16, "states": states(16, LLM_DIM), "length": 16}
        tokens = {"query_states": states(12, LLM_DIM), "query_length": 12, "answers": [answer]}
        llm.append({**key, **tokens, "instruction_states": states(4, LLM_DIM), "width": LLM_DIM, **caption})
    for name, rows in (("latents", latents), ("t5_tokens", t5), ("llm_tokens", llm)):
        table = Table(str(root / name))
        table.begin(ModelConfig(base="random"))
        table.commit("only", pa.Table.from_pylist(rows, schema=SCHEMAS[name]))
        table.finish(clips)


if __name__ == "__main__":
    main()
