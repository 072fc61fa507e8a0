"""`mimir generate`: one prompt in this process, a list of prompts on Ray."""

import json
import logging
import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mimir_ray.cli.options import (
    Assignments,
    ConfigFiles,
    Loras,
    Overwrite,
    RayAddress,
    load_recipe,
    lora_assignments,
)
from mimir_ray.cli.paths import require_checkpoint, require_writable, shipped_checkpoint
from mimir_ray.cli.verb import register
from mimir_ray.config import UserError
from mimir_ray.console import progress_line, results, silence_loading_bars, status

if TYPE_CHECKING:
    from mimir_ray.generation.config import GenerationConfig

LISTS = (".txt", ".jsonl", ".csv", ".parquet")

FIRST_REASONS = 3

logger = logging.getLogger(__name__)


def add_to(app: typer.Typer) -> None:
    """Register the verb of this module."""
    register(
        app,
        "generate",
        continues=True,
        examples=[
            'mimir generate "a red circle is above a blue square" --out x.mp4',
            "mimir generate prompts.txt --out runs/videos",
            'mimir generate "..." --out x.mp4 --model runs/mine/train/export',
            'mimir generate "..." --out x.mp4 --lora style.safetensors:0.8',
        ],
    )(generate)


def generate(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT|FILE", help=f"A prompt, or a list of them: {', '.join(LISTS)}.")
    ],
    out: Annotated[str, typer.Option("--out", help="An .mp4 file, or a directory; a list needs a directory.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Checkpoint directory or hub id; the shipped Mimir by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Same seed, same video.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Denoise steps.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance scale; 1 is none.")] = None,
    lora: Loras = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="NAME", help="Size and defaults; shapes for the shipped Mimir.")
    ] = None,
    files: ConfigFiles = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
    retry: Annotated[bool, typer.Option("--retry-quarantined", help="Try the failed rows of a list again.")] = False,
    address: RayAddress = None,
) -> None:
    """Generate a video for a prompt, or videos for a list of prompts.

    One prompt runs in this process. A list runs on Ray; what is already generated is skipped.
    """
    from mimir_ray.storage import parent

    if not prompt.strip():
        raise UserError("the prompt is empty: say in a sentence what the video is to show")
    kind = mimetypes.guess_type(_name(out))[0] or ""  # a directory such as runs/v1.2 has none
    if kind.startswith(("video/", "image/")) and not _is_mp4(out):
        raise UserError(f"--out {out!r}: videos are written as .mp4 files; name one, or a directory")
    require_writable(parent(out)[0] if _is_mp4(out) else out, "--out")
    chosen = {"seed": seed, "num_inference_steps": steps, "guidance_scale": guidance}
    given = [f"generation.{field}={value}" for field, value in chosen.items() if value is not None]
    configuration = load_recipe(recipe or "shapes", [*(assignments or []), *given, *lora_assignments(lora)], files)
    config = configuration.generation
    if model is None:
        checkpoint = shipped_checkpoint(configuration)
    else:
        checkpoint = _checkpoint(model, config, size_is_meant=bool(recipe or files))
    if len(prompt.split()) == 1 and _name(prompt).endswith(LISTS):
        _generate_list(prompt, checkpoint, out, config, overwrite=overwrite, retry=retry, address=address)
    else:
        _generate_one(prompt, checkpoint, out, config)


def _name(location: str) -> str:
    """The last part of a path or URI, in small letters."""
    from mimir_ray.storage import parent

    return parent(location)[1].lower()


def _is_mp4(out: str) -> bool:
    return _name(out).endswith(".mp4")


def _generate_one(prompt: str, checkpoint: str, out: str, config: "GenerationConfig") -> None:
    import torch

    from mimir_ray.generation.checkpoint import load_generator
    from mimir_ray.generation.generator import generate_timed
    from mimir_ray.storage import join, parent, write_bytes, write_json
    from mimir_ray.video.write import encode_mp4

    silence_loading_bars()
    with status.status("loading the model"):
        generator = load_generator(checkpoint, config.runtime)
    request = config.request(prompt, model=generator.model)
    path = out if _is_mp4(out) else join(out, f"{request.request_id}.mp4")
    with progress_line("denoising", "steps") as progress, torch.inference_mode():
        frames, timings = generate_timed(generator, request, progress)
    write_bytes(path, encode_mp4(frames, request.fps))
    folder, name = parent(path)
    write_json(join(folder, name[: -len(".mp4")] + ".json"), request.model_dump(mode="json"))
    logger.info("encode %.1f s, denoise %.1f s, decode %.1f s", timings.encode_s, timings.denoise_s, timings.decode_s)
    results.print(path, markup=False)


def _generate_list(
    prompts: str,
    checkpoint: str,
    out: str,
    config: "GenerationConfig",
    *,
    overwrite: bool,
    retry: bool,
    address: str | None,
) -> None:
    if _is_mp4(out):
        raise UserError(f"--out {out!r} is one file, and {prompts} is a list: name a directory")

    from mimir_ray.generation.checkpoint import model_name
    from mimir_ray.generation.prompts import read_prompts

    listed = read_prompts(prompts, config, model_name(checkpoint, config.runtime.lora))

    from mimir_ray.cli.ray_cluster import connect
    from mimir_ray.generation.batch import generate_batch
    from mimir_ray.generation.index import INDEX_FILE
    from mimir_ray.storage import join

    connect(address)
    manifest = generate_batch(listed, checkpoint, out, config, overwrite=overwrite, retry_quarantined=retry)
    results.print(f"{out}: {manifest.ok} videos, {manifest.quarantined} quarantined of {manifest.inputs}", markup=False)
    for repeated in listed.repeats():
        results.print(f"  {repeated}", markup=False)
    for reason, count in list(manifest.reasons.items())[:FIRST_REASONS]:
        results.print(f"  {count} failed: {reason}", markup=False)
    if len(manifest.reasons) > FIRST_REASONS:
        results.print(f"  and {len(manifest.reasons) - FIRST_REASONS} more reasons", markup=False)
    results.print(f"{join(out, INDEX_FILE)} has a line for every prompt", markup=False)


def _checkpoint(model: str, config: "GenerationConfig", *, size_is_meant: bool) -> str:
    """The checkpoint to load, once it is sure that the recipe's video size is meant for it."""
    require_checkpoint(model)
    directory = Path(model).expanduser()
    if not size_is_meant and not (directory.is_dir() and _made_for(directory, config)):
        from mimir_ray.recipes import RECIPES

        raise UserError(
            f"{model} is not made for {config.num_frames} frames of {config.width}x{config.height}, the default here: "
            f"name its --recipe ({', '.join(RECIPES)})"
        )
    return str(directory.resolve()) if directory.is_dir() else model


def _made_for(directory: Path, config: "GenerationConfig") -> bool:
    """Whether the transformer in `directory` was trained at the configuration's size."""
    transformer = json.loads((directory / "transformer" / "config.json").read_text())
    vae = json.loads((directory / "vae" / "config.json").read_text())
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    size = (transformer["sample_frames"], transformer["sample_height"] * factor, transformer["sample_width"] * factor)
    return size == (config.num_frames, config.height, config.width)
