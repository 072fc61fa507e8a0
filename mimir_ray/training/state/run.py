"""A run's directory: whose it is and whether it has finished."""

from typing import Any

from pydantic import field_serializer

from mimir_ray.config import Config, UserError, differences, fingerprint, from_dict
from mimir_ray.model.config import ModelConfig
from mimir_ray.storage import exists, join, read_json, write_json
from mimir_ray.training.config import TrainingConfig

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
_RUN = "_run.json"
_MANIFEST = "_manifest.json"

_CHANGEABLE = {
    *("validation", "logging", "log_every", "max_skipped_steps", "max_failures"),
    *("checkpoint_every", "keep_checkpoints", "keep_by"),
    *("workers", "min_workers", "resize_check_s", "accumulate", "device", "read_ahead", "cache_mib"),
    *("zero_stage", "offload", "gradient_checkpointing", "compile"),
}


class Run(Config):
    """What determines the weights that come out: another value of any of these is another run."""

    schema_version: int = 2
    """The version of what a run's directory holds."""
    model: ModelConfig
    training: TrainingConfig
    """Without what decides only where, how fast and beside what it runs, which may change while the run goes on."""
    tables: dict[str, str]
    """Configuration fingerprint of each table."""
    samples: str
    """Content id of the shards' names, and of the clips and captions in them."""

    @field_serializer("training")
    def _deciding(self, training: TrainingConfig) -> dict[str, Any]:
        return training.model_dump(mode="json", exclude=_CHANGEABLE)


def begin(out: str, run: Run) -> int | None:
    """Claim ``out`` for this run. Returns how many steps it was to have until now, where it is to have more of them.

    Raises UserError where another one has already trained there.
    """
    held = _held(out)
    if held is not None:
        _refuse_other(out, held, run)
        steps = int(held["training"]["steps"])
        if steps == run.training.steps:
            return None
    write_json(join(out, _RUN), run.model_dump(mode="json"))
    return None if held is None else steps


def check_out(out: str, model: ModelConfig, config: TrainingConfig) -> None:
    """Raise UserError where ``out`` holds another run, as far as can be told while the rows are not known."""
    held = _held(out)
    if held is not None:
        _refuse_other(out, held, Run(model=model, training=config, tables=held["tables"], samples=held["samples"]))


def _held(out: str) -> dict[str, Any] | None:
    """The run that has trained there, if one has."""
    if not exists(join(out, _RUN)) or not exists(join(out, METRICS)):
        return None
    return _completed(read_json(join(out, _RUN)))


def _completed(held: dict[str, Any]) -> dict[str, Any]:
    """A run as it was written, with the defaults of what could not be chosen then."""
    try:
        return from_dict(Run, held).model_dump(mode="json")
    except UserError:  # of a version that could be told other things
        return held


def _refuse_other(out: str, held: dict[str, Any], run: Run) -> None:
    wanted = run.model_dump(mode="json")
    if held["training"].get("steps", 0) < wanted["training"]["steps"]:  # the same run, which goes on for longer
        held = held | {"training": held["training"] | {"steps": wanted["training"]["steps"]}}
    changed = differences(held | {"samples": ""}, wanted | {"samples": ""})
    if held["samples"] != wanted["samples"]:
        changed.append("the clips, their captions or the shards that they lie in have changed")
    if changed:
        raise UserError(
            f"{out} holds another run: {'; '.join(changed)}. Choose another --out, remove {out}, or undo the change"
        )


def finish(out: str, run: Run, seconds: float) -> None:
    """Say that the run has finished, with all that it had to write."""
    write_json(
        join(out, _MANIFEST),
        run.model_dump(mode="json") | {"fingerprint": fingerprint(run), "seconds": seconds},
    )


def ended(out: str) -> bool:
    """Whether some run has finished there."""
    return exists(join(out, _MANIFEST)) and exists(join(out, "export", "model_index.json"))


def finished(out: str, run: Run) -> bool:
    """Whether this run has."""
    if not ended(out):
        return False
    manifest = read_json(join(out, _MANIFEST))
    held = {name: value for name, value in manifest.items() if name in Run.model_fields}
    return _completed(held) == run.model_dump(mode="json")


def read_run(out: str) -> Run:
    """Raises UserError where ``out`` is no run's directory."""
    uri = join(out, _RUN)
    if not exists(uri):
        raise UserError(f"{out} is no training run (it has no _run.json); name the --out of `mimir train`")
    return from_dict(Run, read_json(uri), uri)


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"
