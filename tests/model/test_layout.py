"""Diffusers alone, in a process of its own, opens a saved Mimir."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from mimir_ray.model.pipeline import MimirPipeline
from mimir_ray.shapes.weights import mimir_dir
from tests.model.conftest import PROMPTS
from tests.tiny import frames_of, tiny_base

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
import diffusers
import numpy as np

prompt, *checkpoints = sys.argv[1:]
assert not any(name.startswith("mimir_ray") for name in sys.modules)
for number, checkpoint in enumerate(checkpoints):
    for cls in (diffusers.DiffusionPipeline, diffusers.CogVideoXPipeline):
        try:
            cls.from_pretrained(checkpoint)
        except ValueError as error:
            assert "trust_remote_code=True" in str(error), error
        else:
            raise AssertionError(f"{cls.__name__} opened it without its token fuser")
        pipeline = cls.from_pretrained(checkpoint, trust_remote_code=True)
        assert type(pipeline).__name__ == "MimirPipeline", type(pipeline)
        made = pipeline(prompt, seed=5, num_inference_steps=2, output_type="np").frames
        np.save(f"{cls.__name__}-{number}.npy", (made * 255).round().astype("uint8"))
"""


def test_it_makes_the_same_videos(mimir: Path, tmp_path: Path) -> None:
    without_llm = tmp_path / "saved"
    MimirPipeline.from_base(tiny_base(tmp_path / "base")).save_pretrained(without_llm)
    checkpoints = mimir, without_llm, mimir_dir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, PROMPTS[0], *map(str, checkpoints)],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_MODULES_CACHE": str(tmp_path / "modules"),
            "OMP_NUM_THREADS": str(torch.get_num_threads()),  # sums are split by it, and it may have been set here
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for number, checkpoint in enumerate(checkpoints):
        expected = frames_of(MimirPipeline.from_pretrained(checkpoint), PROMPTS[0], seed=5, num_inference_steps=2)
        for name in ("DiffusionPipeline", "CogVideoXPipeline"):
            assert np.array_equal(np.load(tmp_path / f"{name}-{number}.npy"), expected), (name, checkpoint)


def test_what_was_saved_under_the_packages_own_names_still_loads(mimir: Path, tmp_path: Path) -> None:
    index = json.loads((mimir / "model_index.json").read_text())
    for part in mimir.iterdir():
        if part.is_dir():
            (tmp_path / part.name).symlink_to(part)
    old = index | {"_class_name": "MimirPipeline", "token_fuser": ["mimir_ray.model.token_fuser", "TokenFuser"]}
    (tmp_path / "model_index.json").write_text(json.dumps(old))
    assert MimirPipeline.from_pretrained(tmp_path).config.language["max_new_tokens"] == 8
