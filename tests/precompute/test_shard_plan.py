"""How clips are put into shards."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mimir_ray.config import UserError, override
from mimir_ray.precompute import encode_in_memory, precompute
from mimir_ray.precompute.estimate import estimate
from mimir_ray.precompute.inputs import ok_captions, ok_clips
from mimir_ray.precompute.shard_plan import PlannedShard, enough_shards, part_borders, plan_shards
from mimir_ray.storage import Table, content_id, find_predecessors, shard_name
from tests.precompute.world import (
    CONFIG,
    OK,
    REJECTED,
    clip_row,
    commit,
    curated,
    encode_here,
    tiny_model,
)


def write(root: Path, shards: Mapping[str, int], first: int = 0) -> None:
    """So many clips that passed in each shard of curation, one that did not, and a caption for each."""
    clips: dict[str, list[dict[str, Any]]] = {}
    captions: dict[str, list[dict[str, Any]]] = {}
    for shard, count in shards.items():
        ids = [f"{shard}-{number}" for number in range(first, first + count)]
        clips[shard] = [clip_row(f"{shard}-rejected", root) | REJECTED] + [clip_row(name, root) | OK for name in ids]
        captions[shard] = [{"clip_id": row["clip_id"], "kind": "short", "text": "words"} | OK for row in clips[shard]]
    for name, rows in (("clips", clips), ("captions", captions)):
        table = Table(str(root / name))
        table.drop(table.shards())
        commit(root, name, rows)


def kept(shards: Mapping[str, int]) -> list[str]:
    return sorted(f"{shard}-{number}" for shard, count in shards.items() for number in range(count))


def clips_in(root: Path, planned: PlannedShard) -> list[str]:
    return [clip.clip_id for clip in ok_clips(str(root), planned)]


SIZES = {"even": [3] * 16, "uneven": [0, 1, 40, 2, 5, 0, 7, 1], "one": [200], "many": [1] * 40, "none": [0, 0]}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_every_clip_lies_in_one_shard_of_about_the_size(sizes: list[int], tmp_path: Path) -> None:
    shards = {shard_name(bucket, "content"): count for bucket, count in enumerate(sizes)}
    write(tmp_path, shards)
    for clips_per_shard in (1, 3, 8, 100):
        plan = plan_shards(str(tmp_path), clips_per_shard)
        assert [planned.shard for planned in plan] == sorted({planned.shard for planned in plan})
        members = {planned.shard: clips_in(tmp_path, planned) for planned in plan}
        assert sorted(clip for clips in members.values() for clip in clips) == kept(shards)
        for planned in plan:
            assert [row["clip_id"] for row in ok_captions(str(tmp_path), planned)] == members[planned.shard]
            of_sources = sum(shards[source] for source in planned.sources)
            assert of_sources <= planned.parts * 2 * clips_per_shard
            assert planned.parts == 1 or of_sources > planned.parts * clips_per_shard


def test_small_shards_fall_together_and_a_large_one_is_cut(tmp_path: Path) -> None:
    small = {shard_name(bucket, "content"): 4 for bucket in range(16)}
    write(tmp_path, small)
    assert [len(clips_in(tmp_path, planned)) for planned in plan_shards(str(tmp_path), 16)] == [16, 16, 16, 16]
    assert [planned.shard for planned in plan_shards(str(tmp_path), 4)] == list(small), "as curation left them"
    write(tmp_path, {"00000-content": 1000})
    parts = [len(clips_in(tmp_path, planned)) for planned in plan_shards(str(tmp_path), 100)]
    assert len(parts) == 8
    assert 80 < min(parts) < max(parts) < 170


def test_a_shard_of_another_kind_of_name_stays_alone(tmp_path: Path) -> None:
    write(tmp_path, {"mine": 1, "yours": 9})
    plan = plan_shards(str(tmp_path), 4)
    assert [(planned.sources, planned.parts) for planned in plan] == [(("mine",), 1), (("yours",), 2), (("yours",), 2)]
    assert plan[0].shard == "mine"


@pytest.mark.parametrize("buckets", [[bucket for bucket in range(64) if bucket % 5], [5, 37, 50]], ids=["many", "few"])
def test_a_shard_that_is_cut_anew_finds_those_that_held_its_clips(buckets: list[int], tmp_path: Path) -> None:
    """As another size makes it; the corpus is uneven, and some buckets are empty."""
    shards = {shard_name(bucket, "content"): bucket % 7 * 150 // len(buckets) for bucket in buckets}
    write(tmp_path, shards)
    plan = {size: plan_shards(str(tmp_path), size) for size in (1, 2, 3, 4, 10, 16, 64)}
    members = {
        size: {planned.shard: set(clips_in(tmp_path, planned)) for planned in found} for size, found in plan.items()
    }
    for before, after in itertools.permutations(plan, 2):
        old, new = members[before], members[after]
        found = find_predecessors(new, old)
        for shard, clips in new.items():
            assert clips <= set().union(*(old.get(holder, set()) for holder in (shard, *found[shard])))


def films(
    root: Path, films: int, clips: int, without: Sequence[int] = (), sources: int = 1
) -> dict[str, tuple[str, int]]:
    """Films of so many clips each, but for some, in shards of curation; returns film and first frame of each clip.

    Ids are hashes, as curation's are, and rows lie in no order of time.
    """
    rows: dict[str, list[dict[str, Any]]] = {shard_name(bucket, "content"): [] for bucket in range(sources)}
    for number in range(films * clips):
        film, place = f"film-{number % films}", number // films
        clip_id = content_id(film, str(place))
        row = clip_row(clip_id, root) | {"video_id": film, "first_frame": 100 * place}
        rows[shard_name(number % films % sources, "content")].append(row | (REJECTED if number in without else OK))
    for members in rows.values():
        members.sort(key=lambda row: row["clip_id"])
    captions = {
        shard: [{"clip_id": row["clip_id"], "kind": "short", "text": "words"} | OK for row in members]
        for shard, members in rows.items()
    }
    for name, held in (("clips", rows), ("captions", captions)):
        commit(root, name, held)
    found = [row for members in rows.values() for row in members if row["status"] == "ok"]
    return {row["clip_id"]: (row["video_id"], row["first_frame"]) for row in found}


def test_a_part_is_a_run_through_its_films(tmp_path: Path) -> None:
    """So that each part reads a part of a film, and not every part all of it."""
    where = films(tmp_path, films=5, clips=100)
    plan = sorted(plan_shards(str(tmp_path), 25), key=lambda planned: planned.part)
    assert [planned.parts for planned in plan] == [16] * 16
    runs = [sorted(where[clip] for clip in clips_in(tmp_path, planned)) for planned in plan]
    assert [place for run in runs for place in run] == sorted(where.values())
    assert max(len({film for film, _ in run}) for run in runs) <= 2
    assert 25 < min(map(len, runs)) <= max(map(len, runs)) < 40
    for planned in plan:
        assert clips_in(tmp_path, planned) == sorted(clips_in(tmp_path, planned)), (
            "the rows lie by id, which strews a film"
        )


@pytest.mark.parametrize(("sources", "gone"), [(1, [100]), (1, range(0, 200, 7)), (4, range(60)), (4, [3, 190])])
def test_parts_of_films_that_are_judged_anew_find_those_that_held_their_clips(
    sources: int, gone: Sequence[int], tmp_path: Path
) -> None:
    """Clips go and come back, and another size is asked for; a shard that keeps its name keeps its borders."""
    states = {}
    for state, without in {"all": (), "judged": gone}.items():
        films(tmp_path, films=5, clips=40, without=without, sources=sources)
        for size in (4, 10, 20):
            states[state, size] = {
                planned.shard: set(clips_in(tmp_path, planned)) for planned in plan_shards(str(tmp_path), size)
            }
    for before, after in itertools.permutations(states.values(), 2):
        found = find_predecessors(after, before)
        known = set().union(*before.values())
        for shard, clips in after.items():
            assert clips & known <= set().union(*(before.get(holder, set()) for holder in (shard, *found[shard])))


def test_a_clip_that_goes_leaves_most_parts_where_they_are(tmp_path: Path) -> None:
    films(tmp_path, films=5, clips=100)
    before = {planned.shard for planned in plan_shards(str(tmp_path), 25)}
    films(tmp_path, films=5, clips=100, without=[250])
    after = {planned.shard for planned in plan_shards(str(tmp_path), 25)}
    assert len(before) == len(after) == 16
    assert len(before & after) >= 10


@pytest.mark.parametrize(("clips", "parts"), [(0, 1), (1, 1), (3, 2), (64, 64), (65, 32), (1000, 8), (1000, 16)])
def test_borders_ascend_and_no_part_is_empty(clips: int, parts: int) -> None:
    borders = part_borders([content_id(str(number)) for number in range(clips)], parts)
    assert (borders[0], borders[-1], len(borders)) == (0, clips, parts + 1)
    sizes = [after - before for before, after in itertools.pairwise(borders)]
    assert all(abs(size - clips / parts) <= clips / parts / 4 + 1 for size in sizes)
    assert clips == 0 or min(sizes) > 0


def test_a_cut_survives_as_a_row() -> None:
    planned = PlannedShard("00001-x", ("00001-a", "00003-b"), 1, 4)
    assert PlannedShard.of(planned.row() | {"predecessors": [], "latents": True}) == planned


def test_shards_are_a_power_of_two() -> None:
    assert [enough_shards(clips, 128) for clips in (0, 1, 128, 129, 500_000)] == [1, 1, 1, 2, 4096]


@pytest.mark.parametrize("old", ["clips", "captions"])
def test_what_another_version_curated_is_refused_before_a_table_is_touched(old: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    data = curated(tmp_path / "data", shards=1, clips_per_shard=1)
    encode_here(data, model, CONFIG)
    age(data, old)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    said = rf"{old} is of version 1, and this mimir reads version \d; run `mimir curate SOURCE --out \S+ --overwrite`"
    other = override(CONFIG, ["sample_fps=8"])
    for run in (
        lambda: precompute(str(data), model, CONFIG),
        lambda: precompute(str(data), model, other, overwrite=True),
        lambda: estimate(str(data), model, CONFIG),
        lambda: encode_in_memory(str(data), model, CONFIG),
    ):
        with pytest.raises(UserError, match=said):
            run()
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def age(data: Path, name: str) -> None:
    """Let a table be one of an earlier version, which had no spans."""
    folder = data / name
    manifest = json.loads((folder / "_manifest.json").read_text())
    (folder / "_manifest.json").write_text(json.dumps(manifest | {"schema_version": 1}))
    for file in folder.glob("*.parquet"):
        rows = pq.read_table(file)
        pq.write_table(rows.drop_columns([name for name in rows.column_names if name == "first_frame"]), file)


def test_what_curation_left_undone_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not curated; name what `mimir curate SOURCE --out DATA` wrote"):
        plan_shards(str(tmp_path), 1)
    write(tmp_path, {"00000-content": 1})
    Table(str(tmp_path / "captions")).reopen()
    with pytest.raises(UserError, match="captions is not finished; run `mimir curate"):
        plan_shards(str(tmp_path), 1)
    write(tmp_path, {"00000-content": 1})
    (tmp_path / "clips" / "00000-content.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"cannot read shard 00000-content .*remove 00000-content\.parquet there"):
        plan_shards(str(tmp_path), 1)
