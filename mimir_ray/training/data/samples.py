"""Which clips can be trained on: the tables of a data root, joined by clip_id shard by shard.

Only ids, kinds, shapes and statuses are read here; the states stay where they are until a batch needs them.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from mimir_ray.config import UserError
from mimir_ray.storage import READERS, content_id
from mimir_ray.training.config import CaptionWeights
from mimir_ray.training.data.order import Shape
from mimir_ray.training.data.source import StoredTables, TableSource, tuples

LATENTS_KEYS = ["clip_id", "shape", "status"]
CAPTION_KEYS = ["clip_id", "kind", "text", "status"]


@dataclass(frozen=True)
class CaptionPlace:
    """Where a caption of a clip is found: its rows in the token tables of the shard."""

    weight: float
    t5_row: int
    llm_row: int
    """-1 where the model has no LLM branch."""


@dataclass(frozen=True)
class Sample:
    """A clip that can be trained on."""

    clip_id: str
    shape: Shape
    """T C h w of its latents."""
    latents_row: int
    captions: tuple[CaptionPlace, ...]


@dataclass(frozen=True)
class TrainingData:
    """What can be trained on; small enough to send to every worker."""

    root: str
    source: TableSource
    decoder: bool
    """Whether ``llm_tokens`` is read."""
    buckets: dict[Shape, dict[str, int]]
    """Usable samples of each shard, by the shape of their latents (T C h w)."""
    contents: dict[str, str]
    """Content id of the clips and captions of each shard."""
    unusable: int
    """Clips with latents but without a caption that has a weight and all its tokens."""
    fingerprints: dict[str, str]
    """Configuration fingerprint of each table."""

    @property
    def counts(self) -> dict[str, int]:
        """Usable samples of each shard."""
        counts: Counter[str] = Counter()
        for shards in self.buckets.values():
            counts.update(shards)
        return dict(counts)

    @property
    def clips(self) -> int:
        return sum(sum(shards.values()) for shards in self.buckets.values())


def open_data(root: str, decoder: bool, weights: CaptionWeights, source: TableSource | None = None) -> TrainingData:
    """Check the tables under ``root``, or those of another ``source``, and count what can be trained on.

    Raises:
        UserError: a table is missing, unfinished or does not fit the others; nothing usable.
    """
    source = source or StoredTables(root)
    fingerprints = source.check(["latents", "t5_tokens", *(["llm_tokens"] if decoder else [])])
    shards = source.shards()
    buckets: dict[Shape, dict[str, int]] = {}
    contents: dict[str, str] = {}
    encoded = usable = 0
    with ThreadPoolExecutor(READERS, "tables") as readers:
        opened = readers.map(lambda shard: _count(source, shard, decoder, weights), shards)
        for shard, (latents, shapes, content) in zip(shards, opened, strict=True):
            contents[shard] = content
            encoded += latents
            usable += shapes.total()
            for shape, samples in shapes.items():
                buckets.setdefault(shape, {})[shard] = samples
    if not encoded:
        raise UserError(f"{root} has no clip with latents; `mimir curate report {root}` says what became of the videos")
    if not usable:
        kinds = ", ".join(kind for kind, weight in weights.model_dump().items() if weight)
        raise UserError(
            f"{root} has {encoded} clips with latents and none of them has tokens of a caption of kind {kinds}; "
            "give the kinds that it has a weight (training.caption_weights), or look at the reasons in its tables"
        )
    return TrainingData(root, source, decoder, buckets, contents, encoded - usable, fingerprints)


def _count(source: TableSource, shard: str, decoder: bool, weights: CaptionWeights) -> tuple[int, Counter[Shape], str]:
    """Clips of a shard that have latents, its usable samples by shape, and what they are."""
    latents = source.open("latents", shard).read(LATENTS_KEYS)
    t5 = source.open("t5_tokens", shard).read(CAPTION_KEYS)
    llm = source.open("llm_tokens", shard).read(CAPTION_KEYS) if decoder else None
    samples = join_samples(latents, t5, llm, weights)
    ok = sum(status == "ok" for status in latents["status"].to_pylist())
    return ok, Counter(sample.shape for sample in samples), content_of(samples, t5)


def content_of(samples: Sequence[Sample], t5: pa.Table) -> str:
    """Content id of the clips and captions of a shard's samples."""
    kinds, texts = t5["kind"].to_pylist(), t5["text"].to_pylist()
    return content_id(
        *(
            repr((sample.clip_id, sample.shape, [(kinds[c.t5_row], texts[c.t5_row]) for c in sample.captions]))
            for sample in samples
        )
    )


def join_samples(latents: pa.Table, t5: pa.Table, llm: pa.Table | None, weights: CaptionWeights) -> list[Sample]:
    """The usable clips of a shard, in the order of ``latents``, each with its usable captions.

    A caption needs an ok row in every token table and a weight above 0; captions of the same kind share its weight.
    """
    weight_of = weights.model_dump()
    llm_rows: dict[tuple[str, str, str], int] = {}
    if llm is not None:
        for row, (clip_id, kind, text, status) in enumerate(tuples(llm, CAPTION_KEYS)):
            if status == "ok":
                llm_rows.setdefault((clip_id, kind, text), row)
    found: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for row, (clip_id, kind, text, status) in enumerate(tuples(t5, CAPTION_KEYS)):
        llm_row = -1 if llm is None else llm_rows.get((clip_id, kind, text))
        if status == "ok" and llm_row is not None and weight_of[kind] > 0:
            found.setdefault(clip_id, {}).setdefault(kind, []).append((row, llm_row))
    samples = []
    for row, (clip_id, moments, status) in enumerate(tuples(latents, LATENTS_KEYS)):
        if status == "ok" and clip_id in found:
            captions = tuple(
                CaptionPlace(weight_of[kind] / len(rows), t5_row, llm_row)
                for kind, rows in found[clip_id].items()
                for t5_row, llm_row in rows
            )
            frames, channels, height, width = moments
            samples.append(Sample(clip_id, (frames, channels // 2, height, width), row, captions))
    return samples
