"""The stages of curation one after another in this process, for tests of what they find out."""

from pathlib import Path

from mimir_ray.curation import CurationConfig
from mimir_ray.curation.discover import discover
from mimir_ray.curation.rules import Rules
from mimir_ray.curation.stages import judge, score, scoring_stages, split
from mimir_ray.curation.tables import Row, outcome_table, rows_of

SHARD = "all"


def curate_here(sources: list[Path], out: Path, config: CurationConfig) -> tuple[list[Row], list[Row]]:
    """Rows of `videos` and of `clips`, all in one shard."""
    files = [file.packed() for file in discover([str(source) for source in sources])]
    rules, stages, done = Rules.of(config), scoring_stages(config), list[str]()
    split({"shard": SHARD, "files": files}, str(out), config)
    for stage in stages:
        score({"shard": SHARD}, str(out), stage, tuple(done), rules, stage.load())
        done.append(stage.name)
    judge({"shard": SHARD}, str(out), done, rules)
    return rows_of(outcome_table(str(out), "videos"), SHARD), rows_of(outcome_table(str(out), "clips"), SHARD)
