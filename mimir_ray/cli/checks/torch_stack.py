"""PyTorch, the model libraries, GPUs, DeepSpeed."""

import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator

from mimir_ray.cli.checks.finding import Finding, failure, ok, warning

LIBRARIES = ("torch", "transformers", "diffusers", "safetensors", "pyarrow", "pydantic")
PINNED_DEEPSPEED = "0.19.8"


def libraries() -> Iterator[Finding]:
    """The libraries the model and the tables stand on, and whether they load."""
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield failure("libraries", f"{name} is not installed", f"pip install -c constraints.txt {name}")
    import torch

    torch.ones(2).sum()
    yield ok("libraries", ", ".join(versions))


def gpus() -> Iterator[Finding]:
    """CUDA devices with their memory."""
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        if built is None:
            remedy = "enough for the shapes recipe; for real weights install a CUDA build of torch on a GPU machine"
        else:
            remedy = f"torch is built for CUDA {built}: check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES"
        yield warning("gpu", "no CUDA device", remedy)
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"{properties.major}.{properties.minor}"
        detail = (
            f"{index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability {capability}"
        )
        if properties.major < 8:
            yield warning("gpu", detail, "no bfloat16 in hardware: use the mimir_2b recipe (float16)")
        else:
            yield ok("gpu", detail)


def deepspeed() -> Iterator[Finding]:
    """DeepSpeed, whose version training depends on exactly. Looked up, not imported: importing probes compilers."""
    if importlib.util.find_spec("deepspeed") is None:
        yield warning(
            "deepspeed", "not installed: `mimir train` needs it", "on Linux: pip install -c constraints.txt deepspeed"
        )
        return
    version = importlib.metadata.version("deepspeed")
    if version != PINNED_DEEPSPEED:
        yield warning("deepspeed", version, f"training is tested with {PINNED_DEEPSPEED} only: install that version")
    else:
        accelerator = os.environ.get("DS_ACCELERATOR")
        yield ok("deepspeed", version + (f", accelerator {accelerator}" if accelerator else ""))
