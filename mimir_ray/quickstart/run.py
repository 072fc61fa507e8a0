"""``mimir quickstart``: the whole road on the embedded world, in six stages that can be stopped anywhere and continued.

Every stage is the job that a user would run by hand; here they follow each other with the ``shapes`` recipe. A stage
that an earlier run finished says so and costs nothing; one that was killed continues from what it had committed.
"""

import logging
import os
import platform
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from mimir_ray.config import fingerprint
from mimir_ray.curation import curate
from mimir_ray.curation.summary import CurationSummary, losses, render
from mimir_ray.precompute import PrecomputeSummary, precompute
from mimir_ray.quickstart.config import QuickstartConfig
from mimir_ray.quickstart.evaluate import Evaluation, evaluate, fixed_prompts, generate, llm_answers
from mimir_ray.quickstart.journal import Journal, RunningStage
from mimir_ray.quickstart.report import Funnel, Report, verdict
from mimir_ray.quickstart.sheet import SheetRow, contact_sheet
from mimir_ray.recipes import Recipe, shapes
from mimir_ray.shapes.dataset import BAD_CLIPS, render_corpus
from mimir_ray.shapes.prompts import PromptSet
from mimir_ray.storage import content_id, write_bytes, write_json
from mimir_ray.training import TrainingSummary, train
from mimir_ray.training.reporting.metrics import MetricsRow, loss_text, read_metrics

logger = logging.getLogger(__name__)

MODELS = ("base", "Mimir")
SHEET_ROWS: dict[PromptSet, int] = {"held": 6, "long": 3}
REFUSED_SHOWN = 60


def run(
    out: Path, videos: Path | None = None, config: QuickstartConfig | None = None, recipe: Recipe | None = None
) -> Path:
    """Take the road from no data to a report under ``out``; returns the report. Ray must be initialised.

    ``videos``, a folder of the user's own, is curated and encoded beside the rendered clips. Nothing is trained on it:
    the small VAE of the shapes world has seen nothing else, and its latents of other pictures would ruin the training.
    """
    config, recipe = config or QuickstartConfig(), recipe or shapes()
    out = out.expanduser().absolute()
    corpus, data = out / f"corpus-{config.clips}", str(out / "data")
    prompts = fixed_prompts(config.prompts)
    journal = Journal(out / "quickstart.json", stages=7 if videos else 6)

    with journal.stage("render") as stage:
        _render(corpus, config, stage)
    with journal.stage("curate") as stage:
        curated = curate([str(corpus)], data, recipe.curation, progress=stage)
        _say_curated(curated, stage)
    with journal.stage("precompute") as stage:
        encoded = precompute(data, recipe.model, recipe.precompute, progress=stage)
        _say_encoded(encoded, stage)
    funnels = {"The rendered clips": _funnel(data, curated)}
    if videos:
        with journal.stage("your videos") as stage:
            funnels["Your videos"] = _take_own(videos, str(out / "own"), recipe, stage)
    with journal.stage("train") as stage:
        folder = _training_folder(out, encoded, recipe)
        trained = train(data, str(folder), recipe.model, recipe.training, on_metrics=partial(_show_loss, stage, recipe))
        _say_trained(trained, recipe, stage)
    with journal.stage("generate") as stage:
        checkpoints = dict(zip(MODELS, (recipe.model.base, trained.export), strict=True))
        files, reused = {}, True
        for model, checkpoint in checkpoints.items():
            made = generate(prompts, checkpoint, out / "videos", recipe.generation, config.seed, stage)
            files[model], reused = made.files, reused and made.reused
        stage.did(f"{sum(map(len, files.values()))} videos, one of each model for each prompt", reused=reused)
    with journal.stage("report") as stage:
        answers = llm_answers(trained.export, prompts, recipe.generation, config.seed)
        evaluation = evaluate(prompts, files, out / "truth", recipe.generation, answers)
        facts = _facts(config, recipe, trained)
        page = _write(out, evaluation, funnels, read_metrics(str(folder / "metrics.jsonl")), journal, facts)
        stage.did("scores, page and contact sheet")

    for line in verdict(page):
        logger.info("%s", line)
    logger.info("The model: %s", trained.export)
    return out / "report.html"


def _render(corpus: Path, config: QuickstartConfig, stage: RunningStage) -> None:
    there = len(list(corpus.glob("clip-*.mp4"))) if corpus.is_dir() else 0
    render_corpus(corpus, config.clips, config.seed)
    reused = there >= config.clips
    stage.did(f"{config.clips:,} captioned clips and {len(BAD_CLIPS)} files that must not pass", reused=reused)


def _say_curated(summary: CurationSummary, stage: RunningStage) -> None:
    stage.did(_account(summary), reused=summary.shards_reused == summary.shards, detail=render(summary))


def _account(summary: CurationSummary) -> str:
    """Files by what became of them; the recipe splits none, so each that is read is one clip."""
    levels = summary.files, summary.clips
    rejected = sum(sum(level.rejected.values()) for level in levels)
    quarantined = sum(sum(level.quarantined.values()) for level in levels)
    kept = summary.clips.ok
    return f"{summary.files.inputs:,} files = {kept:,} kept + {rejected:,} rejected + {quarantined:,} quarantined"


def _say_encoded(summary: PrecomputeSummary, stage: RunningStage) -> None:
    stage.did(_encoded(summary), reused=not any(summary.rows_tried.values()))


def _encoded(summary: PrecomputeSummary) -> str:
    return ", ".join(f"{manifest.ok:,} {name}" for name, manifest in summary.tables.items())


def _take_own(videos: Path, data: str, recipe: Recipe, stage: RunningStage) -> Funnel:
    """Curate and encode the user's own videos under a data root of their own."""
    curated = curate([str(videos)], data, recipe.curation, progress=stage)
    config = recipe.precompute.model_copy(update={"least_psnr_db": None})  # which is why nothing is trained on them
    encoded = precompute(data, recipe.model, config, progress=stage)
    reused = curated.shards_reused == curated.shards and not any(encoded.rows_tried.values())
    outcome = f"{_account(curated)}; {_encoded(encoded)}; not trained on"
    stage.did(outcome, reused=reused, detail=render(curated))
    return _funnel(data, curated)


def _training_folder(out: Path, encoded: PrecomputeSummary, recipe: Recipe) -> Path:
    """A folder for this model, these settings and these tables, so that other clips begin another training."""
    tables = (part for manifest in encoded.tables.values() for part in (manifest.fingerprint, manifest.shards_id))
    return out / "train" / content_id(fingerprint(recipe.model), fingerprint(recipe.training), *tables)


def _show_loss(stage: RunningStage, recipe: Recipe, row: MetricsRow) -> None:
    stage(row["step"], recipe.training.steps, f"loss {loss_text(row['loss'])}  {row['samples_per_s']:.0f} samples/s")


def _say_trained(summary: TrainingSummary, recipe: Recipe, stage: RunningStage) -> None:
    resumed = f", continued from step {summary.resumed_from:,}" if summary.resumed_from else ""
    stage.did(
        f"{summary.steps:,} steps of {recipe.training.batch_size} on {summary.clips:,} clips by "
        f"{recipe.training.workers} workers, "
        f"loss {loss_text(summary.first_loss)} to {loss_text(summary.last_loss)}{resumed}",
        reused=summary.already_finished,
    )


def _funnel(data: str, summary: CurationSummary) -> Funnel:
    files, clips = summary.files, summary.clips
    rejected = files.rejected | {rule.replace("_", " "): count for rule, count in clips.rejected.items()}
    quarantined = files.quarantined | clips.quarantined
    refused = ((Path(loss.path).name, loss.status, loss.reason) for loss in losses(data))
    return Funnel(
        counts={"ok": clips.ok, "rejected": sum(rejected.values()), "quarantined": sum(quarantined.values())},
        reasons={"rejected": rejected, "quarantined": quarantined},
        refused=list(islice(refused, REFUSED_SHOWN)),
    )


def _facts(config: QuickstartConfig, recipe: Recipe, trained: TrainingSummary) -> dict[str, str]:
    training, generation = recipe.training, recipe.generation
    packages = ("ray", "torch", "deepspeed", "diffusers", "transformers")
    return {
        "recipe": f"{recipe.name}, fingerprint {fingerprint(recipe)}",
        "fine-tuning": f"{training.steps:,} steps of {training.batch_size}, ZeRO-{training.zero_stage}, "
        f"{training.workers} workers, {training.precision}; {trained.export}",
        "sampling": f"{generation.num_inference_steps} steps, guidance {generation.guidance_scale:g}, "
        f"seeds from {config.seed}",
        "machine": f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "software": ", ".join(f"{name} {version(name)}" for name in packages),
        "again": "mimir quickstart (finished stages are reused)",
    }


def _processor() -> str:
    """The processor's name; Linux keeps it in a file."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _write(
    out: Path,
    evaluation: Evaluation,
    funnels: dict[str, Funnel],
    metrics: Sequence[MetricsRow],
    journal: Journal,
    facts: dict[str, str],
) -> Report:
    """Write the page, the contact sheet and the figures for machines."""
    page = Report(
        models=MODELS,
        scores=evaluation.scores,
        examples=evaluation.examples,
        losses=[(row["step"], row["loss"]) for row in metrics if row["loss"] is not None],
        funnels=funnels,
        steps=list(journal.steps.values()),
        facts=facts,
    )
    rows = [
        SheetRow(
            example.prompt,
            example.meaning,
            [(video, right) for video, (_, right) in zip(videos, example.videos, strict=True)],
        )
        for name, count in SHEET_ROWS.items()
        for example, videos in islice(evaluation.of(name), count)
    ]
    title = "The same prompts, the same seeds: the first of each list, none was chosen"
    write_bytes(out / "contact_sheet.png", contact_sheet(title, MODELS, rows))
    write_json(out / "scores.json", evaluation.figures())
    write_bytes(out / "report.html", page.html().encode())
    return page
