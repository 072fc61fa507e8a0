"""`mimir shapes`: the embedded world, its clips, its models, its exact scorer."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mimir_ray.cli.options import Assignments, ConfigFiles, configure, load_recipe
from mimir_ray.cli.paths import require_checkpoint, require_writable
from mimir_ray.cli.verb import register
from mimir_ray.config import UserError
from mimir_ray.console import progress_line, results, silence_loading_bars, status

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from mimir_ray.generation.config import GenerationConfig
    from mimir_ray.model.pipeline import MimirPipeline
    from mimir_ray.shapes.scoreboard import Scores

SCORING_BATCH = 20
"""Videos of `mimir shapes score` that are made at once: enough to fill a core, few enough for any memory."""

logger = logging.getLogger(__name__)


def add_to(app: typer.Typer) -> None:
    """Register the verbs of this module."""
    shapes = typer.Typer(
        name="shapes",
        help="The embedded world of moving shapes: render its clips, make its models, score videos exactly.",
        no_args_is_help=True,
    )
    register(shapes, "render", continues=True, examples=["mimir shapes render runs/corpus --clips 200"])(render)
    register(shapes, "pretrain", continues=True, examples=["mimir shapes pretrain --out runs/pretrain"])(pretrain)
    register(
        shapes,
        "score",
        examples=["mimir shapes score", "mimir shapes score --model runs/quickstart/train/export --prompts 60"],
    )(score)
    app.add_typer(shapes)


def render(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the clips and their captions.jsonl.")],
    clips: Annotated[int, typer.Option("--clips", min=1, help="Good clips; six that must not pass come on top.")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same clips.")] = 0,
) -> None:
    """Render captioned clips of moving shapes as mp4 files, ready for `mimir curate`."""
    require_writable(str(out), "OUT")

    from mimir_ray.shapes.dataset import BAD_CLIPS, render_corpus

    with status.status(f"rendering {clips} clips"):
        render_corpus(out, clips, seed)
    results.print(f"{out}: {clips} clips with captions, and {len(BAD_CLIPS)} that must not pass", markup=False)


def score(
    model: Annotated[
        str | None, typer.Option("--model", help="Checkpoint directory; the shipped Mimir by default.")
    ] = None,
    prompts: Annotated[int, typer.Option("--prompts", min=3, help="Prompts of each list.")] = 24,
    files: ConfigFiles = None,
    assignments: Assignments = None,
) -> None:
    """Generate videos for fixed prompts and score them exactly: colour, shape, place, count, motion.

    Three lists: `long` says all in plain words, `seen` uses nicknames that fine-tuning clips have, `held` nicknames
    that only the LLM knows.
    """
    from mimir_ray.shapes.weights import mimir_dir

    checkpoint = require_checkpoint(model or mimir_dir())
    config = load_recipe("shapes", assignments, files).generation

    from rich.table import Table

    from mimir_ray.generation.checkpoint import load_pipeline
    from mimir_ray.shapes.prompts import PROMPT_SETS, evaluation_prompts
    from mimir_ray.shapes.scoreboard import ceiling, floor, score_all

    silence_loading_bars()
    pipeline = load_pipeline(checkpoint, config.runtime)
    table = Table("prompts", "axis", "right", "of", "share", "95% interval", "floor", "ceiling")
    for name in PROMPT_SETS:
        listed = evaluation_prompts(name, prompts)
        videos = _videos(pipeline, [prompt.text for prompt in listed], config, name)
        _add(table, name, score_all(videos, listed), floor(videos, listed), ceiling(listed))
    results.print(table)


def pretrain(
    out: Annotated[Path, typer.Option("--out", help="Folder of every stage's model, log and scores.")],
    stages: Annotated[
        list[str] | None, typer.Option("--stage", help="Only these of tokenizers, llm, t5, vae, latents, base.")
    ] = None,
    files: ConfigFiles = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Override a field, such as vae.full_steps=10."),
    ] = None,
) -> None:
    """Make the small models that ship with the package from nothing, stage by stage.

    Stages that are done are skipped; pretrain.jsonl in the folder is the log.
    """
    from mimir_ray.shapes.pretrain.config import STAGES, PretrainConfig

    if unknown := [stage for stage in stages or [] if stage not in STAGES]:
        raise UserError(f"there is no stage {unknown[0]!r}; choose of {', '.join(STAGES)}")
    config = configure(PretrainConfig(), assignments, files)

    from mimir_ray.shapes.pretrain.run import pretrain as run

    run(out, config, [stage for stage in STAGES if not stages or stage in stages])
    results.print(str(out / "base"), markup=False)


def _videos(
    pipeline: "MimirPipeline", prompts: Sequence[str], config: "GenerationConfig", name: str
) -> "list[NDArray[np.uint8]]":
    """Frames for each prompt, made a batch at a time; the seed of a prompt is its row, as if it were made alone."""
    videos: list[NDArray[np.uint8]] = []
    with progress_line(name, "videos") as progress:
        for first in range(0, len(prompts), SCORING_BATCH):
            if progress:
                progress(first, len(prompts))
            texts = prompts[first : first + SCORING_BATCH]
            made = pipeline(
                texts,
                num_frames=config.num_frames,
                height=config.height,
                width=config.width,
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                seed=[config.seed + first + row for row in range(len(texts))],
                output_type="np",
            )
            videos += list((made.frames * 255).round().astype("uint8"))
    return videos


def _add(table: "Table", name: str, scores: "Scores", floor: "Scores", ceiling: "Scores") -> None:
    """Rows of one prompt list. Floor: the same videos against other prompts; ceiling: true videos."""
    for axis, share in scores.items():
        low, high = share.interval
        shares = (
            f"{share.value:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{floor[axis].value:.2f}",
            f"{ceiling[axis].value:.2f}",
        )
        table.add_row(name, axis, str(share.right), str(share.total), *shares)
    table.add_section()
