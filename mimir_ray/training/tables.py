"""Which clips can be trained on: the tables of a data root, joined by clip_id shard by shard.

Only ids, kinds and statuses are read here; the states stay on disk until a batch needs them.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mimir_ray.config import UserError
from mimir_ray.storage import Table, join
from mimir_ray.training.config import CaptionWeights

_KEYS = ["clip_id", "kind", "text", "status"]


@dataclass(frozen=True)
class Caption:
    """One way to describe a clip: its rows in the token tables of the shard."""

    weight: float
    t5_row: int
    llm_row: int
    """-1 where the model has no LLM branch."""


@dataclass(frozen=True)
class Sample:
    """A clip that can be trained on."""

    clip_id: str
    latents_row: int
    captions: tuple[Caption, ...]


@dataclass(frozen=True)
class TrainingData:
    """The usable part of a data root; small enough to send to every worker."""

    root: str
    decoder: bool
    """Whether ``llm_tokens`` is read."""
    counts: dict[str, int]
    """Usable samples of each shard."""
    unusable: int
    """Clips with latents but without a caption that has a weight and all its tokens."""
    latent_shape: tuple[int, int, int, int]
    """T C h w."""
    fingerprints: dict[str, str]
    """Configuration fingerprint of each table."""

    def table(self, name: str) -> Table:
        return Table(join(self.root, name))

    @property
    def clips(self) -> int:
        return sum(self.counts.values())


def open_data(root: str, decoder: bool, weights: CaptionWeights) -> TrainingData:
    """Check the tables under ``root`` and count what can be trained on.

    Raises:
        UserError: a table is missing, unfinished or does not fit the others; clips of different sizes; nothing usable.
    """
    names = ["latents", "t5_tokens", *(["llm_tokens"] if decoder else [])]
    tables = {name: Table(join(root, name)) for name in names}
    again = f"run `mimir precompute` on {root} until it says that it is finished"
    fingerprints = {}
    for name, table in tables.items():
        manifest = table.manifest()
        if manifest is None:
            state = f"has {len(shards)} shards but is not finished" if (shards := table.shards()) else "does not exist"
            raise UserError(f"the table {table.uri} {state}; {again}")
        fingerprints[name] = manifest.fingerprint
    shards = tables["latents"].shards()
    curated, latents = Table(join(root, "clips")), tables["latents"].manifest()
    if (clips := curated.manifest()) and latents and (curated.shards() != shards or clips.ok != latents.inputs):
        raise UserError(
            f"{root} was curated again since precompute: {clips.ok} clips are kept now, and {latents.inputs} were "
            "encoded; run `mimir precompute` on it, which encodes what is new"
        )
    for name in names[1:]:
        if lacking := set(shards) - set(tables[name].shards()):
            raise UserError(f"{tables[name].uri} lacks {len(lacking)} of the {len(shards)} shards of latents; {again}")
    counts: dict[str, int] = {}
    encoded = 0
    sizes: dict[tuple[int, ...], str] = {}
    for shard in shards:
        latents = read_shard(tables["latents"], shard, ["clip_id", "shape", "status"])
        tokens = [read_shard(tables[name], shard, _KEYS) for name in names[1:]]
        counts[shard] = len(join_samples(latents, tokens[0], tokens[1] if decoder else None, weights))
        for clip_id, shape, status in _rows(latents, ["clip_id", "shape", "status"]):
            if status == "ok":
                encoded += 1
                sizes.setdefault(tuple(shape), clip_id)
    if not encoded:
        raise UserError(f"{root} has no clip with latents; `mimir curate report {root}` says what became of the videos")
    if not any(counts.values()):
        kinds = ", ".join(kind for kind, weight in weights.model_dump().items() if weight)
        raise UserError(
            f"{root} has {encoded} clips with latents and none of them has tokens of a caption of kind {kinds}; "
            "give the kinds that it has a weight (training.caption_weights), or look at the reasons in its tables"
        )
    if len(sizes) > 1:
        example = "; ".join(f"{clip} has {'x'.join(map(str, shape))}" for shape, clip in list(sizes.items())[:3])
        raise UserError(
            f"the latents of {root} have {len(sizes)} different shapes ({example}); a batch needs one: "
            "precompute with one num_frames, height and width"
        )
    frames, channels, height, width = next(iter(sizes))
    return TrainingData(
        root=root,
        decoder=decoder,
        counts=counts,
        unusable=encoded - sum(counts.values()),
        latent_shape=(frames, channels // 2, height, width),
        fingerprints=fingerprints,
    )


def read_shard(table: Table, shard: str, columns: list[str]) -> pa.Table:
    """Columns of a shard. Raises UserError with the remedy where the file cannot be read."""
    try:
        return table.read(shard, columns)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"cannot read shard {shard} of {table.uri} ({error}); remove {shard}.parquet there and run "
            "`mimir precompute` again, which makes this shard anew"
        ) from error


def join_samples(latents: pa.Table, t5: pa.Table, llm: pa.Table | None, weights: CaptionWeights) -> list[Sample]:
    """The usable clips of a shard, in the order of ``latents``, each with its usable captions.

    A caption needs an ok row in every token table and a weight above 0; captions of the same kind share its weight.
    """
    weight_of = weights.model_dump()
    llm_rows: dict[tuple[str, str, str], int] = {}
    if llm is not None:
        for row, (clip_id, kind, text, status) in enumerate(_rows(llm, _KEYS)):
            if status == "ok":
                llm_rows.setdefault((clip_id, kind, text), row)
    found: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for row, (clip_id, kind, text, status) in enumerate(_rows(t5, _KEYS)):
        llm_row = -1 if llm is None else llm_rows.get((clip_id, kind, text))
        if status == "ok" and llm_row is not None and weight_of[kind] > 0:
            found.setdefault(clip_id, {}).setdefault(kind, []).append((row, llm_row))
    samples = []
    for row, (clip_id, status) in enumerate(_rows(latents, ["clip_id", "status"])):
        if status == "ok" and clip_id in found:
            captions = tuple(
                Caption(weight_of[kind] / len(rows), t5_row, llm_row)
                for kind, rows in found[clip_id].items()
                for t5_row, llm_row in rows
            )
            samples.append(Sample(clip_id, row, captions))
    return samples


def _rows(table: pa.Table, columns: list[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))
