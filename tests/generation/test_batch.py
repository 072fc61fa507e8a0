"""A prompt list on Ray Data: frames equal the generator's, failures are rows, what is done is skipped."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimir_ray.config import UserError
from mimir_ray.generation import batch as batch_module
from mimir_ray.generation.actors import DecodeActor, DenoiseActor
from mimir_ray.generation.batch import Progress, generate_batch
from mimir_ray.generation.checkpoint import load_generator
from mimir_ray.generation.config import GenerationConfig
from mimir_ray.generation.generator import generate
from mimir_ray.generation.naming import model_name
from mimir_ray.generation.prompts import read_prompts
from mimir_ray.storage import Table, content_id
from mimir_ray.video import probe


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
    assert "line 2" in found["no json"]["reason"]
    assert "9 or 17" in found["a big ball"]["reason"]
    assert "worker process died" in found["a crimson wedge"]["reason"]
    assert [progress.done for progress in seen] == [1, 2, 3]
    index = [json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in index] == [*(request.prompt for request in listed.requests), "no json"]
    assert [line["status"] for line in index] == ["ok", "quarantined", "quarantined", "ok", "quarantined"]
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
        assert probe(row["path"]).frames == 9
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


def test_another_model_is_refused(mimir: str, base: str, config: GenerationConfig, tmp_path: Path) -> None:
    generate_batch([], mimir, str(tmp_path), config)
    with pytest.raises(UserError, match="model was"):
        generate_batch([], base, str(tmp_path), config)
