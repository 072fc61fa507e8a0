from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mimir_ray.config import UserError, override
from mimir_ray.dataflow import ActorPool
from mimir_ray.model.pipeline import MimirPipeline
from mimir_ray.precompute import PrecomputeConfig
from mimir_ray.precompute.components import load_vae
from mimir_ray.precompute.encode import latent_rows, llm_rows, t5_rows
from mimir_ray.records import Clip, StateDtype, unpack_array
from mimir_ray.video import VideoError
from tests.precompute.world import CAPTIONS, CONFIG, clip_row, moving_square, tiny_model

EXACT = CONFIG.model_copy(update={"dtype": "float32"})


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> MimirPipeline:
    return MimirPipeline.from_model_config(tiny_model(tmp_path_factory.mktemp("model")))


def captions(*texts: str) -> list[dict[str, str]]:
    return [{"clip_id": f"clip-{i}", "kind": "short", "text": text} for i, text in enumerate(texts)]


def clips(count: int, **changes: Any) -> list[Clip]:
    return [Clip(**clip_row(f"clip-{i}", Path("unused"), **changes)) for i in range(count)]


def read(clip: Clip, indices: Sequence[int]) -> np.ndarray:
    return moving_square(seed=int(clip.clip_id.removeprefix("clip-")))[list(indices)]


def unpacked(row: dict[str, Any], name: str = "states", width: int | None = None) -> torch.Tensor:
    return torch.from_numpy(unpack_array(row[name], row.get("dtype", "float32"), (-1, width or row["width"])))


def test_the_states_are_those_of_the_pipeline(pipeline: MimirPipeline) -> None:
    texts = [*CAPTIONS, "a red ball moves left"]
    seeds = [CONFIG.seed, CONFIG.seed + 1]
    t5 = t5_rows(captions(*texts), pipeline.t5_branch, EXACT)
    llm = llm_rows(captions(*texts), pipeline.llm_branch, EXACT)
    for k, seed in enumerate(seeds):
        expected = pipeline.encode_prompt(texts, seed)
        for i, row in enumerate(llm):
            answer = row["answers"][k]
            states = torch.cat([unpacked(row, "query_states"), unpacked(answer, width=row["width"])])
            used = min(len(states), expected.llm.shape[1])
            assert answer["seed"] == seed
            assert len(answer["token_ids"]) == answer["length"]
            assert int(expected.llm_mask[i].sum()) == used
            torch.testing.assert_close(states[:used], expected.llm[i, :used], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(unpacked(t5[i]), expected.t5[i], atol=1e-5, rtol=1e-4)
            if k == 0:
                instruction = unpacked(row, "instruction_states")
                torch.testing.assert_close(instruction, expected.instruction[i], atol=1e-5, rtol=1e-4)
    assert {row["length"] for row in t5} == {pipeline.t5_branch.max_length}


def test_equal_texts_are_encoded_once(pipeline: MimirPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    branch, seen = pipeline.t5_branch, []
    encode = branch.encode

    def counted(texts: Sequence[str]) -> torch.Tensor:
        seen.extend(texts)
        return encode(texts)

    monkeypatch.setattr(branch, "encode", counted)
    rows = t5_rows(captions("red ball", "blue ball", "red ball"), branch, EXACT)
    assert sorted(seen) == ["blue ball", "red ball"]
    assert rows[0]["states"] == rows[2]["states"] != rows[1]["states"]
    assert [row["clip_id"] for row in rows] == ["clip-0", "clip-1", "clip-2"]


def test_a_longer_prompt_than_the_llm_takes_is_quarantined_alone(pipeline: MimirPipeline) -> None:
    rows = llm_rows(captions("red ball", "red " * 400, "blue ball"), pipeline.llm_branch, EXACT)
    assert [row["status"] for row in rows] == ["ok", "quarantined", "ok"]
    assert "context of 256 tokens" in rows[1]["reason"]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 1e-2), ("float32", 1e-6)])
def test_stored_dtypes(pipeline: MimirPipeline, dtype: StateDtype, tolerance: float) -> None:
    config = CONFIG.model_copy(update={"dtype": dtype})
    (row,) = t5_rows(captions("red ball"), pipeline.t5_branch, config)
    assert row["dtype"] == dtype
    assert len(row["states"]) == row["length"] * row["width"] * (4 if dtype == "float32" else 2)
    torch.testing.assert_close(
        unpacked(row), pipeline.t5_branch.encode(["red ball"])[0], atol=tolerance, rtol=tolerance
    )


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(UserError, match=r"dtype is \"int8\"; it must be 'float16', 'bfloat16' or 'float32'"):
        override(CONFIG, ["dtype=int8"])


def test_moments_are_the_posterior_whatever_the_batch(pipeline: MimirPipeline) -> None:
    rows = latent_rows(clips(4), read, pipeline.vae, EXACT)
    assert [row["status"] for row in rows] == ["ok"] * 4
    for row, clip in zip(rows, clips(4), strict=True):
        assert row["shape"] == [3, 32, 8, 8]
        assert row["frame_indices"] == list(range(0, 65, 8))
        frames = torch.from_numpy(read(clip, row["frame_indices"])).permute(3, 0, 1, 2)[None] / 127.5 - 1
        with torch.no_grad():
            expected = pipeline.vae.encode(frames).latent_dist
        mean, logvar = torch.from_numpy(unpack_array(row["moments"], "float32", tuple(row["shape"]))).chunk(2, dim=1)
        torch.testing.assert_close(mean, expected.mean[0].transpose(0, 1), atol=1e-3, rtol=1e-2)
        torch.testing.assert_close(logvar, expected.logvar[0].transpose(0, 1), atol=1e-3, rtol=1e-2)


def test_a_batch_of_the_vae_holds_one_size(pipeline: MimirPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    config = override(
        EXACT, ["buckets=[{num_frames: 9, height: 32, width: 64}, {num_frames: 1, height: 64, width: 64}]"]
    )
    given = [
        *clips(5),
        Clip(**clip_row("clip-5", Path("unused")) | {"width_px": 640, "height_px": 320}),
        Clip(**clip_row("clip-6", Path("unused"), frames=8)),
        Clip(**clip_row("clip-7", Path("unused")) | {"width_px": 600, "height_px": 320}),
    ]
    given = [given[i] for i in (0, 5, 1, 6, 2, 7, 3, 4)]
    seen, encode = [], pipeline.vae.encode

    def counted(video: torch.Tensor) -> Any:
        seen.append(tuple(video.shape))
        return encode(video)

    monkeypatch.setattr(pipeline.vae, "encode", counted)
    rows = latent_rows(given, read, pipeline.vae, config)
    assert [row["clip_id"] for row in rows] == [clip.clip_id for clip in given]
    assert seen == [(3, 3, 9, 64, 64), (2, 3, 9, 64, 64), (2, 3, 9, 32, 64), (1, 3, 1, 64, 64)]
    shapes = {row["clip_id"]: row["shape"] for row in rows}
    assert shapes == {f"clip-{i}": [3, 32, 8, 8] for i in range(5)} | {
        "clip-5": [3, 32, 4, 8],
        "clip-6": [1, 32, 8, 8],
        "clip-7": [3, 32, 4, 8],
    }


def test_clips_are_read_source_by_source_and_forward(pipeline: MimirPipeline) -> None:
    """Whatever their sizes and the order of their ids; no more than a batch of each size waits."""
    config = override(EXACT, ["buckets=[{num_frames: 1, height: 64, width: 64}]"])
    spans = [("b.mp4", 200), ("a.mp4", 300), ("b.mp4", 0), ("a.mp4", 0), ("b.mp4", 100), ("a.mp4", 100), ("a.mp4", 200)]
    given = [
        Clip(**clip_row(f"clip-{n}", Path(path), frames=8 if n % 3 else 65) | {"first_frame": first, "video_id": path})
        for n, (path, first) in enumerate(spans)
    ]
    order: list[tuple[str, int]] = []

    def ordered(clip: Clip, indices: Sequence[int]) -> np.ndarray:
        order.append((clip.path, clip.first_frame))
        return read(clip, indices)

    rows = latent_rows(given, ordered, pipeline.vae, config)
    assert [row["clip_id"] for row in rows] == [clip.clip_id for clip in given]
    assert [row["status"] for row in rows] == ["ok"] * 7
    assert order == sorted(spans)
    alone = [latent_rows([clip], read, pipeline.vae, config)[0] for clip in given]
    assert [row["shape"] for row in rows] == [row["shape"] for row in alone]
    for row, one in zip(rows, alone, strict=True):
        together, single = (unpack_array(found["moments"], "float32", tuple(row["shape"])) for found in (row, one))
        np.testing.assert_allclose(together, single, atol=1e-3, rtol=1e-2)


def test_slicing_encodes_the_same_clip_by_clip_and_tiling_otherwise(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    plain, sliced, tiled = (
        load_vae(model, 0, **options)
        for options in ({}, {"slicing": True}, {"tiling": True})  # type: ignore[arg-type]
    )
    seen: dict[str, list[tuple[int, ...]]] = {}
    for name, vae in (("plain", plain), ("sliced", sliced), ("tiled", tiled)):
        seen[name] = []
        vae.encoder.register_forward_pre_hook(
            lambda _, args, seen=seen[name]: seen.append((args[0].shape[0], *args[0].shape[3:]))
        )
    moments = {
        name: np.stack([unpack_array(row["moments"], "float32", tuple(row["shape"])) for row in rows])
        for name, vae in (("plain", plain), ("sliced", sliced), ("tiled", tiled))
        if (rows := latent_rows(clips(3), read, vae, EXACT))
    }
    assert set(seen["plain"]) == {(3, 64, 64)}
    assert set(seen["sliced"]) == {(1, 64, 64)}
    assert max(seen["tiled"]) == (3, 32, 32)
    alone = latent_rows(clips(1), read, plain, EXACT)[0]
    assert moments["sliced"][0].tobytes() == alone["moments"]  # and a batch changes no more than rounding does
    np.testing.assert_allclose(moments["sliced"], moments["plain"], atol=1e-3, rtol=1e-2)
    assert moments["tiled"].shape == moments["plain"].shape
    assert np.abs(moments["tiled"] - moments["plain"]).max() > 0.1


def test_a_clip_that_cannot_be_read_is_quarantined_alone(pipeline: MimirPipeline) -> None:
    def fails(clip: Clip, indices: Sequence[int]) -> np.ndarray:
        if clip.clip_id == "clip-1":
            raise VideoError("ends after 3 of 65 frames")
        if clip.clip_id == "clip-2":
            raise OSError("disk on fire")
        return read(clip, indices)

    rows = latent_rows(clips(4), fails, pipeline.vae, EXACT)
    assert [(row["status"], row["reason"]) for row in rows] == [
        ("ok", ""),
        ("quarantined", "ends after 3 of 65 frames"),
        ("quarantined", "tried again by the next run: OSError: disk on fire"),
        ("ok", ""),
    ]


def test_a_clip_that_the_encoder_fails_on_is_quarantined_alone(pipeline: MimirPipeline) -> None:
    class Picky(torch.nn.Module):
        dtype = pipeline.vae.dtype

        def __init__(self) -> None:
            super().__init__()
            self.vae = pipeline.vae

        def encode(self, video: torch.Tensor) -> Any:
            if (video == -1).flatten(1).all(1).any():
                raise ArithmeticError("nothing to see")
            return pipeline.vae.encode(video)

    def black(clip: Clip, indices: Sequence[int]) -> np.ndarray:
        return read(clip, indices) * (clip.clip_id != "clip-2")

    rows = latent_rows(clips(4), black, Picky(), EXACT)
    assert [row["status"] for row in rows] == ["ok", "ok", "quarantined", "ok"]
    assert rows[2]["reason"] == "ArithmeticError: nothing to see"


def test_a_clip_too_short_is_rejected(pipeline: MimirPipeline) -> None:
    (row,) = latent_rows(clips(1, frames=7), read, pipeline.vae, EXACT)
    assert row["status"] == "rejected"
    assert "clip has 7 frames" in row["reason"]


def test_a_state_that_the_stored_dtype_cannot_hold_is_quarantined(pipeline: MimirPipeline) -> None:
    class Loud:
        max_length = 4

        def encode(self, texts: Sequence[str]) -> torch.Tensor:
            return torch.stack([torch.full((4, 2), 1e6 if "loud" in text else 1.0) for text in texts])

    rows = t5_rows(captions("red ball", "loud ball"), Loud(), CONFIG)  # type: ignore[arg-type]
    assert [row["status"] for row in rows] == ["ok", "quarantined"]
    assert "not finite in float16" in rows[1]["reason"]


def test_the_batch_is_part_of_no_answer(pipeline: MimirPipeline) -> None:
    one = CONFIG.model_copy(update={"llm_tokens": ActorPool(batch=1)})
    rows, alone = (llm_rows(captions(*CAPTIONS), pipeline.llm_branch, config) for config in (CONFIG, one))
    ids = [[answer["token_ids"] for answer in row["answers"]] for row in rows]
    assert ids == [[answer["token_ids"] for answer in row["answers"]] for row in alone]


def test_config_needs_a_size() -> None:
    with pytest.raises(ValueError, match="num_frames"):
        PrecomputeConfig(height=64, width=64)  # type: ignore[call-arg]


def test_one_bad_text_costs_few_batches() -> None:
    class Counting:
        max_length, calls = 1, 0

        def encode(self, texts: Sequence[str]) -> torch.Tensor:
            self.calls += 1
            if "bad" in texts:
                raise ArithmeticError("no")
            return torch.ones(len(texts), 1, 2)

    branch = Counting()
    rows = t5_rows(captions("bad", *map(str, range(63))), branch, CONFIG)  # type: ignore[arg-type]
    assert [row["status"] for row in rows] == ["quarantined"] + ["ok"] * 63
    assert branch.calls == 13  # 1 of 64, then 2 of each halving
