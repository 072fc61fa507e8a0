"""How ``benchmarks.gpu`` measures: sizes of models, a device and its clock, and what the figures depend on."""

import gc
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from torch import Tensor

from mimir_ray.model.latents import latent_shape
from mimir_ray.training.reporting.telemetry import peak_tflops
from mimir_ray.training.sizing.memory import GIB

RUNS = 3
ENOUGH_S = 20.0
"""A figure is measured ``RUNS`` times; on a slow device no run begins later than this after the first."""
DTYPE = torch.bfloat16
PACKAGES = ("torch", "triton", "diffusers", "transformers", "peft", "accelerate", "deepspeed", "numpy")


@dataclass(frozen=True)
class Size:
    """A model's configuration and the video that it makes."""

    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    llm_dim: int
    video: tuple[int, int, int]
    """Frames, height, width."""
    matrix: int
    """Rows and columns of the matrices whose product shows what the device reaches."""


SIZES = {
    # The configurations of zai-org/CogVideoX-5b; what they leave out is as diffusers has it.
    "5b": Size(
        {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
        {
            "block_out_channels": (128, 256, 256, 512),
            "layers_per_block": 3,
            "latent_channels": 16,
            "sample_height": 480,
            "sample_width": 720,
            "scaling_factor": 0.7,
        },
        llm_dim=3072,  # Phi-3.5-mini
        video=(49, 480, 720),
        matrix=8192,
    ),
    "tiny": Size(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 2,
            "time_embed_dim": 16,
            "text_embed_dim": 32,
            "max_text_seq_length": 24,
            "sample_height": 8,
            "sample_width": 8,
            "sample_frames": 9,
            "use_rotary_positional_embeddings": True,
        },
        {
            "block_out_channels": (8, 8, 8, 8),
            "layers_per_block": 1,
            "latent_channels": 16,
            "norm_num_groups": 2,
            "sample_height": 64,
            "sample_width": 64,
            "scaling_factor": 0.7,
        },
        llm_dim=24,
        video=(9, 64, 64),
        matrix=64,
    ),
}


class Bench:
    """Measures on one device and records what it found.

    Args:
        record: takes one line.
    """

    def __init__(self, size: Size, device: torch.device, part: str, record: Callable[[dict[str, Any]], None]) -> None:
        self.size = size
        self.device = device
        self.peak = peak_tflops(device, "bf16")
        self._part = part
        self._record = record

    def figure(self, name: str, **values: Any) -> None:
        self._record({"part": self._part, "figure": name, **values})

    def built(self, make: Callable[[], Any]) -> Any:
        """A module made on the device, in ``DTYPE``: random numbers for 5 billion weights take a CPU minutes."""
        default = torch.get_default_dtype()
        torch.set_default_dtype(DTYPE)
        try:
            with torch.device(self.device):
                return make().eval()
        finally:
            torch.set_default_dtype(default)

    def transformer(self) -> Any:
        return self.built(lambda: CogVideoXTransformer3DModel(**self.size.transformer))

    def vae(self) -> Any:
        return self.built(lambda: AutoencoderKLCogVideoX(**self.size.vae))

    def random(self, *shape: int, dtype: torch.dtype = DTYPE) -> Tensor:
        """Numbers that are not zero: on zeros a GPU draws less power and runs faster."""
        return torch.randn(*shape, device=self.device, dtype=dtype)

    def latent_shape(self) -> tuple[int, int, int, int]:
        """T C h w of the video."""
        with torch.device("meta"):
            vae = AutoencoderKLCogVideoX(**self.size.vae)
            transformer = CogVideoXTransformer3DModel(**self.size.transformer)
        return latent_shape(vae.config, transformer.config, *self.size.video)

    def measure(
        self, calls: Mapping[str, Callable[[], Any]], flops: int, *, per: int = 1, **values: Any
    ) -> dict[str, list[float]]:
        """Record a figure for each of ``calls``, which are run in turns: what disturbs one then disturbs all.

        Args:
            flops: of one of the ``per`` equal pieces of work that a call does, as are the seconds.
            values: what else to record.

        Returns:
            the seconds of each run, by call.
        """
        warmup = {name: self._timed(call) for name, call in calls.items()}
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        memory = dict.fromkeys(calls, (0, 0))
        began = time.perf_counter()
        for run in range(RUNS):
            if run and time.perf_counter() - began > ENOUGH_S:
                break
            for name in list(calls)[:: -1 if run % 2 else 1]:
                if self.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(self.device)
                seconds[name].append(self._timed(calls[name]) / per)
                if self.device.type == "cuda":
                    peak = torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device)
                    memory[name] = max(memory[name], peak)
        for name, runs in seconds.items():
            median = statistics.median(runs)
            held, reserved = (size / GIB if size else None for size in memory[name])
            self.figure(
                name,
                seconds=median,
                runs_s=runs,
                warmup_s=warmup[name],
                tflop=flops / 1e12,
                share_of_peak=flops / 1e12 / (median * self.peak) if self.peak else None,
                peak_memory_gib=held,
                reserved_gib=reserved,
                **values,
            )
        return seconds

    def _timed(self, call: Callable[[], Any]) -> float:
        self.wait()
        began = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def within_memory(self, name: str) -> Iterator[None]:
        """Record the figure as skipped where the device's memory does not suffice, and go on with the memory freed."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            self.figure(name, skipped=reason_of(error))
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def machine(size: Size, device: torch.device) -> dict[str, Any]:
    """What the figures depend on: the hardware, what is installed and the model."""
    hardware: dict[str, Any] = {"device": device.type, "cpu": platform.machine(), "cores": os.cpu_count()}
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        hardware |= {
            "name": found.name,
            "compute_capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "memory_gib": found.total_memory / GIB,
            "peak_tflops": peak_tflops(device, "bf16"),
            **_driver(),
        }
    versions: dict[str, Any] = {"python": platform.python_version(), "cuda": torch.version.cuda}
    versions["cudnn"] = torch.backends.cudnn.version()
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    model = {"transformer": dict(size.transformer), "video": size.video, "dtype": str(DTYPE).removeprefix("torch.")}
    return {"hardware": hardware, "versions": versions, "model": model}


def _driver() -> dict[str, str]:
    if (program := shutil.which("nvidia-smi")) is None:
        return {}
    names = ("driver_version", "power.limit")
    query = [program, f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    return dict(zip(names, answer.strip().partition("\n")[0].split(", "), strict=False))


def reason_of(error: Exception) -> str:
    """Its kind and its first line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
