"""A prompt list on Ray Data: frames equal the generator's, failures are rows, what is done is skipped."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimir_ray.config import UserError
from mimir_ray.generation import batch as batch_module
from mimir_ray.generation.actors import DecodeActor, DenoiseActor, generation_row
from mimir_ray.generation.batch import Progress, generate_batch
from mimir_ray.generation.checkpoint import load_generator
from mimir_ray.generation.config import GenerationConfig
from mimir_ray.generation.generator import generate
from mimir_ray.generation.naming import model_name
from mimir_ray.generation.prompts import read_prompts
from mimir_ray.storage import Table, content_id
from mimir_ray.video import probe, read_frames


class CrashingDenoiseActor(DenoiseActor):
    """Ends its whole process over one prompt, as a segmentation fault would."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if "crimson" in row["request"]:
            os._exit(139)
        return super().__call__(row)


class KeepingDecodeActor(DecodeActor):
    """Keeps the raw frames beside the table, since an mp4 is lossy."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        decode, self._stage.decode = self._stage.decode, self._kept  # type: ignore[method-assign]
        self._decode = decode
        self._name = row["request"]
        try:
            return super().__call__(row)
        finally:
            self._stage.decode = decode  # type: ignore[method-assign]

    def _kept(self, latents: Any) -> Any:
        frames = self._decode(latents)
        np.save(Path(self._videos).parent / f"{content_id(self._name)}.npy", frames)
        return frames


def rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["prompt"]: row for part in Table(str(out / "generations")).scan() for row in part.to_pylist()}


@pytest.mark.usefixtures("ray_session")
def test_a_list_with_good_bad_and_fatal_lines(
    mimir: str, config: GenerationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "DenoiseActor", CrashingDenoiseActor)
    monkeypatch.setattr(batch_module, "DecodeActor", KeepingDecodeActor)
    lines = [
        '{"prompt": "a red circle moves left", "seed": 5}',
        "no json",
        '{"prompt": "a crimson wedge"}',
        '{"prompt": "a big ball", "num_frames": 13}',
        '{"prompt": "a blue square"}',
    ]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(lines))
    model = model_name(mimir)
    seen: list[Progress] = []

    listed = read_prompts(str(prompts), config, model)
    manifest = generate_batch(listed, mimir, str(tmp_path / "out"), config, on_progress=seen.append)

    assert (manifest.inputs, manifest.ok, manifest.quarantined) == (5, 2, 3)
    found = rows(tmp_path / "out")
    assert found["no json"]["reason"].startswith("line 2: not JSON")
    assert "9 or 17" in found["a big ball"]["reason"]
    assert "worker process died" in found["a crimson wedge"]["reason"]
    assert [progress.done for progress in seen] == [1, 2, 3]
    index = [json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    assert [line["line"] for line in index] == [1, 2, 3, 4, 5]
    assert [line["prompt"] for line in index][1:4] == ["no json", "a crimson wedge", "a big ball"], "as they are listed"
    assert [line["status"] for line in index] == ["ok", "quarantined", "quarantined", "quarantined", "ok"]
    for line in index:
        assert (line["file"] is None) == (line["status"] != "ok") == bool(line["reason"])
    assert (tmp_path / "out" / index[0]["file"]).is_file()
    assert index[0]["seed"] == 5
    assert seen[-1].left_s > 0

    generator = load_generator(mimir, config.runtime)
    for request in (listed.requests[0], listed.requests[-1]):
        row = found[request.prompt]
        kept = np.load(tmp_path / "out" / f"{content_id(request.model_dump_json())}.npy")
        assert np.array_equal(kept, generate(generator, request))
        assert probe(str(tmp_path / "out" / row["path"])).frames == 9
        assert min(row["encode_s"], row["denoise_s"], row["decode_s"]) > 0

    monkeypatch.undo()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "videos").iterdir()}
    seen.clear()
    assert generate_batch(listed, mimir, str(tmp_path / "out"), config, on_progress=seen.append) == manifest
    assert seen == []

    prompts.write_text("\n".join(["", *lines[:1], lines[2]]))
    listed = read_prompts(str(prompts), config, model)
    manifest = generate_batch(listed, mimir, str(tmp_path / "out"), config, retry_quarantined=True)
    assert (manifest.inputs, manifest.ok, manifest.quarantined) == (3, 3, 0)
    assert all(path.stat().st_mtime_ns == before for path, before in written.items())


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
def test_repeats_are_videos_of_their_own_and_are_found_again_where_out_is_moved(
    mimir: str, config: GenerationConfig, tmp_path: Path
) -> None:
    prompts, out, moved = tmp_path / "p.jsonl", tmp_path / "out", tmp_path / "moved"
    lines = ['{"prompt": "a ball"}', '{"prompt": "a ball"}', "no json", '{"prompt": "a ball", "seed": 0}']
    prompts.write_text("\n".join(lines))
    model, config = model_name(mimir), config.model_copy(update={"num_inference_steps": 1})
    manifest = generate_batch(read_prompts(str(prompts), config, model), mimir, str(out), config)
    assert (manifest.inputs, manifest.ok, manifest.quarantined) == (3, 2, 1)
    index = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    assert [(row["line"], row["seed"], row["status"]) for row in index] == [
        *((1, 0, "ok"), (2, 1, "ok"), (3, None, "quarantined"), (4, 0, "ok"))
    ]
    assert index[0]["file"] == index[3]["file"] != index[1]["file"]
    first, second = (read_frames(str(out / row["file"]), range(9), timeout_s=30).frames for row in index[:2])
    assert not np.array_equal(first, second)

    out.rename(moved)
    made: list[Progress] = []
    listed = read_prompts(str(prompts), config, model)
    assert generate_batch(listed, mimir, str(moved), config, on_progress=made.append) == manifest
    assert made == []
    for part in Table(str(moved / "generations")).scan(["path"]):
        for path in filter(None, part["path"].to_pylist()):
            assert (moved / path).is_file(), "paths below --out are relative to it"

    prompts.write_text("\n".join([*lines, lines[0]]))
    manifest = generate_batch(
        read_prompts(str(prompts), config, model), mimir, str(moved), config, on_progress=made.append
    )
    assert (manifest.inputs, manifest.ok, len(made)) == (4, 3, 1), "one more repeat is one more video"
    rows = [json.loads(line) for line in (moved / "index.jsonl").read_text().splitlines()]
    assert rows[:4] == index
    assert (rows[4]["line"], rows[4]["seed"], rows[4]["status"]) == (5, 2, "ok")


def test_another_model_is_refused(mimir: str, base: str, config: GenerationConfig, tmp_path: Path) -> None:
    generate_batch([], mimir, str(tmp_path), config)
    with pytest.raises(UserError, match="model was"):
        generate_batch([], base, str(tmp_path), config)


@pytest.mark.parametrize(("all_of_them", "left"), [(False, ["bad", "good", "other"]), (True, ["good", "other"])])
def test_only_what_failed_is_forgotten(all_of_them: bool, left: list[str], tmp_path: Path) -> None:
    table = Table(str(tmp_path / "generations"))
    for name, reason in {"good": "", "bad": "too long", "other": "", "mended": "no json"}.items():
        outcome = {"status": "quarantined" if reason else "ok", "reason": reason}
        table.commit(name, generation_row(None, request_id=name, **outcome))
    batch_module._drop_failures(table, {"good", "bad"}, all_of_them=all_of_them)
    assert table.shards() == left
