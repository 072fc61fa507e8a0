"""What a fine-tuning on the shapes world costs plain words, and what it gives held-out nicknames: one row a setting.

    mimir quickstart                                       # the clips, encoded
    python benchmarks/plain_words.py runs/quickstart/data gentler --set training.learning_rate=3e-4

Trains with the batches, loss, optimiser and average of `mimir train`, in one process and one thread, makes a video for
each of 120 prompts in plain words and 60 with held-out nicknames, scores them exactly, and adds a row to
plain_words.json beside it: settings over those of the recipe `shapes`, seconds of training, shares by axis.
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch

from mimir_ray.config import override
from mimir_ray.generation.config import GenerationConfig
from mimir_ray.model.config import ModelConfig
from mimir_ray.recipes import shapes
from mimir_ray.shapes.prompts import PromptSet, evaluation_prompts
from mimir_ray.shapes.scoreboard import tally
from mimir_ray.shapes.scorer import score
from mimir_ray.training.average import AVERAGE, AveragingAdamW, decay_at
from mimir_ray.training.config import TrainingConfig
from mimir_ray.training.data.batches import Batches
from mimir_ray.training.data.samples import open_data
from mimir_ray.training.engine import learning_rate_at
from mimir_ray.training.export import trained_pipeline
from mimir_ray.training.module import load_start

logger = logging.getLogger(__name__)

PROMPTS: dict[PromptSet, int] = {"long": 120, "held": 60}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data root with the clips' latents and tokens")
    parser.add_argument("name", help="of the row")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    recipe = override(shapes(), arguments.assignments)
    began = time.perf_counter()
    weights = fine_tuned(arguments.data, recipe.model, recipe.training)
    seconds = time.perf_counter() - began
    row = {
        "name": arguments.name,
        "clips": open_data(arguments.data, True, recipe.training.caption_weights).clips,
        "settings": arguments.assignments,
        "training_s": round(seconds),
        "prompts": PROMPTS,
        "scores": scores(trained_pipeline(weights, recipe.model, recipe.training), recipe.generation),
    }
    logger.info("%s", json.dumps(row))
    rows = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    arguments.out.write_text(json.dumps([*rows, row], indent=2) + "\n")


def fine_tuned(data: str, model: ModelConfig, config: TrainingConfig) -> dict[str, Any]:
    """The moving average of what is trained, after all steps."""
    start = load_start(model, config)
    module = start.module.train()
    batches = Batches(
        open_data(data, True, config.caption_weights),
        config,
        scaling_factor=start.scaling_factor,
        timesteps=len(module.schedule),
        text_length=start.text_length,
    )
    groups = module.parameter_groups(config)
    optimizer = AveragingAdamW(groups, betas=config.betas, weight_decay=config.weight_decay, fused=True)
    for step, batch in enumerate(batches.ahead(0, config.steps)):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate_at(step, config)
            group["average_decay"] = decay_at(step, config.ema_decay)
        loss, _ = module(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            logger.info("step %d of %d: loss %.4f", step + 1, config.steps, loss.item())
    trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    return {name: optimizer.state[weight][AVERAGE] for name, weight in trained.items()}


def scores(pipeline: Any, config: GenerationConfig) -> dict[str, dict[str, float]]:
    """Shares of right videos by kind of prompt and axis."""
    found = {}
    for kind, count in PROMPTS.items():
        prompts, verdicts = evaluation_prompts(kind, count), []
        for seed, prompt in enumerate(prompts):
            video = pipeline(
                prompt.text,
                seed=seed,
                num_frames=config.num_frames,
                height=config.height,
                width=config.width,
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                output_type="np",
            ).frames[0]
            verdicts.append(score((video * 255).round().astype("uint8"), prompt.scene))
        found[kind] = {axis: round(share.value, 3) for axis, share in tally(verdicts).items()}
    return found


if __name__ == "__main__":
    main()
