"""The stages of curation one after another in this process, for tests of what they find out."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from mimir_ray.curation import CurationConfig, CurationSummary, curate
from mimir_ray.curation.rules import Rules
from mimir_ray.curation.sources import SourceFile, discover
from mimir_ray.curation.stages import ScoringStage, judge, score, scoring_stages, split
from mimir_ray.curation.tables import outcome_table, rows_of
from mimir_ray.dataflow import Row
from mimir_ray.vllm import TextEngine, TextEngineConfig, vllm_engine

SHARD = "all"


def curate_here(sources: list[Path], out: Path, config: CurationConfig) -> tuple[list[Row], list[Row]]:
    """Rows of `videos` and of `clips`, all in one shard."""
    files = discover([str(source) for source in sources]).files
    list(LocalPipeline({SHARD: files}, {SHARD: []}, str(out), config).iter_rows())
    return rows_of(outcome_table(str(out), "videos"), SHARD), rows_of(outcome_table(str(out), "clips"), SHARD)


def curate_whole(sources: Sequence[str], out: str, config: CurationConfig, **options: bool) -> CurationSummary:
    """All of `curate`, manifests included, but for Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mimir_ray.curation.pipeline.pipeline", LocalPipeline)
        return curate(sources, out, config, **options)


@dataclass(frozen=True)
class LocalPipeline:
    """Stands in for `pipeline`: what is done to its shards, one after another."""

    shards: dict[str, list[SourceFile]]
    predecessors: dict[str, list[str]]
    out: str
    config: CurationConfig
    stages: Sequence[ScoringStage] = ()
    engine: Callable[[TextEngineConfig], TextEngine] = vllm_engine

    def iter_rows(self) -> Iterator[Row]:
        """Do it; a row a shard."""
        rules, stages = Rules.of(self.config), scoring_stages(self.config)
        names = [stage.name for stage in stages]
        for shard, files in self.shards.items():
            row = {"shard": shard, "files": pickle.dumps(files), "predecessors": self.predecessors[shard]}
            split(row, self.out, self.config)
            for place, stage in enumerate(stages):
                score({"shard": shard}, self.out, stage, names[:place], rules, stage.load())
            yield judge({"shard": shard}, self.out, names, rules)
