"""`mimir train --no-cache` on a data root that was only curated, against the same run from tables."""

import sys
from pathlib import Path

import pyarrow.compute as pc
import pytest

from mimir_ray.cli.options import load_recipe
from mimir_ray.config import UserError
from mimir_ray.precompute import encode_in_memory, precompute
from mimir_ray.storage import Table
from mimir_ray.training import train
from mimir_ray.training.data.source import TableSource
from mimir_ray.training.reporting.metrics import read_metrics
from tests.cli.command import mimir
from tests.precompute.world import curated, tiny_model

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(600)]

TABLES = ("latents", "t5_tokens", "llm_tokens")


def assignments(root: Path) -> list[str]:
    model = tiny_model(root)
    return [
        f"model.base={model.base}",
        f"model.llm={model.llm}",
        "model.language.max_new_tokens=6",
        "precompute.answers=2",
        "precompute.least_psnr_db=null",
        "precompute.latents.actors=2",
        "training.steps=6",
        "training.batch_size=4",
        "training.workers=1",
        "training.warmup_steps=1",
        "training.log_every=1",
        "training.shuffle_shards=2",
    ]


@pytest.mark.slow
def test_a_run_without_cache_is_the_run_from_tables(tmp_path: Path) -> None:
    data, changed = curated(tmp_path / "data"), assignments(tmp_path)
    options = [part for assignment in changed for part in ("--set", assignment)]
    result = mimir("train", "--data", str(data), "--out", str(tmp_path / "first"), "--no-cache", *options)
    assert result.exit_code == 0, result.output
    assert not [name for name in TABLES if (data / name).exists()]

    recipe = load_recipe("shapes", changed)
    held = encode_in_memory(str(data), recipe.model, recipe.precompute)
    precompute(str(data), recipe.model, recipe.precompute)
    summary = train(str(data), str(tmp_path / "second"), recipe.model, recipe.training)
    losses = [
        [row["loss"] for row in read_metrics(str(tmp_path / run / "metrics.jsonl"))] for run in ("first", "second")
    ]
    assert len(losses[0]) == 6
    assert losses[0] == losses[1]
    assert summary.clips == 8  # nine, and the file of one is cut off
    for name in TABLES:
        table = Table(str(data / name))
        for shard in table.shards():
            stored, rows = table.read(shard), held.open(name, shard).rows
            ok = pc.equal(stored["status"], "ok")
            assert rows.filter(ok).equals(stored.filter(ok))
    again = train(str(data), str(tmp_path / "second"), recipe.model, recipe.training, source=lambda: held)
    assert again.already_finished, "it is the same run, wherever its rows come from"


def test_what_was_not_curated_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe("shapes", None)
    with pytest.raises(UserError, match="was not curated; name what `mimir curate SOURCE --out DATA` wrote"):
        encode_in_memory(str(tmp_path), recipe.model, recipe.precompute)


def test_a_size_that_the_model_cannot_take_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe("shapes", ["precompute.height=60", "generation.height=60"])
    with pytest.raises(UserError, match=r"height=60 must be a positive multiple"):
        encode_in_memory(str(tmp_path), recipe.model, recipe.precompute)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.workers=1000", r"training needs 1000 CPUs at once"),
        ("training.logging.to=[wandb]", r"training\.logging\.to names wandb and that package is not installed"),
    ],
)
def test_nothing_is_encoded_for_a_run_that_cannot_start(
    setting: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = load_recipe("shapes", ["training.batch_size=1000", setting])

    def encode() -> TableSource:
        raise AssertionError("it was encoded")

    with pytest.raises(UserError, match=message):
        train(str(tmp_path), str(tmp_path / "out"), recipe.model, recipe.training, source=encode)
