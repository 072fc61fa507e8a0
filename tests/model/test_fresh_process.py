"""What one process saved, another loads and continues to the same bits."""

import subprocess
import sys
from pathlib import Path

import torch

from mimir_ray.model.config import LanguageConfig
from mimir_ray.model.pipeline import MimirPipeline
from mimir_ray.model.sampling import Sampler
from tests.model.conftest import PROMPTS
from tests.tiny import tiny_scheduler

SCRIPT = """
import sys
from pathlib import Path
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from mimir_ray.model.pipeline import MimirPipeline
from mimir_ray.model.sampling import DenoiseState, Sampler

checkpoint, folder, prompt = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
pipeline = MimirPipeline.from_pretrained(checkpoint)
condition, null = pipeline.condition(pipeline.encode_prompt(prompt, 5))
for scheduler in (CogVideoXDDIMScheduler, CogVideoXDPMScheduler):
    name = scheduler.__name__
    state = DenoiseState.from_bytes((folder / name).read_bytes())
    sampler = Sampler(pipeline.transformer, scheduler.from_config(pipeline.scheduler.config))
    for state in sampler.steps(state, condition, null):
        pass
    (folder / f"{name}.done").write_bytes(state.to_bytes())
"""


def test_a_checkpoint_and_its_runs_continue_bit_identically_in_another_process(mimir: Path, tmp_path: Path) -> None:
    pipeline = MimirPipeline.from_pretrained(mimir)
    assert pipeline.language == LanguageConfig(max_new_tokens=8)
    condition, null = pipeline.condition(pipeline.encode_prompt(PROMPTS[0], 5))
    finished = {}
    for scheduler in (tiny_scheduler(), tiny_scheduler(dpm=True)):
        name = type(scheduler).__name__
        sampler = Sampler(pipeline.transformer, scheduler)
        start = sampler.start(
            pipeline.latent_shape(9, 64, 64), [5], num_inference_steps=4, guidance_scale=3.0, dtype=torch.float32
        )
        states = list(sampler.steps(start, condition, null))
        (tmp_path / name).write_bytes(states[1].to_bytes())
        finished[name] = states[-1].to_bytes()
    command = [sys.executable, "-c", SCRIPT, str(mimir), str(tmp_path), PROMPTS[0]]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], capture_output=True)
    for name, expected in finished.items():
        assert (tmp_path / f"{name}.done").read_bytes() == expected
