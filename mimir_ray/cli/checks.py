"""What `mimir doctor` looks at: each function yields findings about one subject."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mimir_ray import __version__
from mimir_ray.config import Config, UserError

LEAST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 5 * 10**9
LIBRARIES = ("torch", "transformers", "diffusers", "safetensors", "pyarrow", "pydantic")
PINNED_DEEPSPEED = "0.19.8"
USUAL_CODECS = ("h264", "hevc", "vp9", "av1")
FLOAT16 = "--set model.dtype=float16 --set generation.runtime.dtype=float16 --set precompute.dtype=float16"
"""The settings that a recipe in bfloat16 needs on a GPU without it; they must agree with each other."""


class Finding(Config):
    """What was looked at, how it stands, and what to do about it."""

    subject: str
    level: Literal["ok", "warning", "failure"]
    """`warning`: works, with less than it could; `failure`: mimir_ray cannot work so."""
    detail: str
    remedy: str = ""


def ok(subject: str, detail: str) -> Finding:
    """A finding that needs no action."""
    return Finding(subject=subject, level="ok", detail=detail)


def warning(subject: str, detail: str, remedy: str) -> Finding:
    """Something that works with less than it could."""
    return Finding(subject=subject, level="warning", detail=detail, remedy=remedy)


def failure(subject: str, detail: str, remedy: str) -> Finding:
    """Something mimir_ray cannot work without."""
    return Finding(subject=subject, level="failure", detail=detail, remedy=remedy)


def python() -> Iterator[Finding]:
    """The interpreter, our version, the processors."""
    version = platform.python_version()
    if sys.version_info < LEAST_PYTHON:
        yield failure("python", f"{version} is too old", "install Python 3.11 or newer")
    else:
        yield ok("python", f"{version}, mimir_ray {__version__}, {platform.system()} {platform.machine()}")
    yield ok("processors", f"{os.cpu_count()} logical CPUs")


def disk() -> Iterator[Finding]:
    """Room for runs here, and for Ray's object store and spills in its temporary folder."""
    for place in (Path.cwd(), Path(os.environ.get("RAY_TMPDIR", "/tmp"))):
        free = shutil.disk_usage(place).free
        detail = f"{free / 1e9:.0f} GB free at {place}"
        if free < LEAST_FREE_BYTES:
            yield warning("disk", detail, f"free at least {LEAST_FREE_BYTES / 1e9:.0f} GB; Ray spills there")
        else:
            yield ok("disk", detail)


def compiler() -> Iterator[Finding]:
    """A C++ compiler and ninja, with which DeepSpeed builds its faster operators when they are first used."""
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if missing:
        yield warning(
            "compiler",
            f"{' and '.join(missing)} not found; training works, without DeepSpeed's compiled operators (CPU offload)",
            "install them: apt install g++ ninja-build",
        )
    else:
        yield ok("compiler", "g++ and ninja")


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
            yield warning("gpu", detail, f"no bfloat16 in hardware: generate with --recipe mimir_2b {FLOAT16}")
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


def decoders() -> Iterator[Finding]:
    """PyAV with the codecs that videos usually have, and decord."""
    import av

    missing = [codec for codec in USUAL_CODECS if codec not in av.codecs_available]
    if missing:
        yield warning(
            "pyav",
            f"{av.__version__} cannot decode {', '.join(missing)}",
            "install PyAV from its wheel: pip install av",
        )
    else:
        yield ok("pyav", f"{av.__version__} decodes {', '.join(USUAL_CODECS)}")
    if importlib.util.find_spec("decord") is None:
        yield warning("decord", "not installed: all videos are read with PyAV", "wheels exist for Linux x86_64 only")
    else:
        yield ok("decord", importlib.metadata.version("decord"))


def round_trip() -> Iterator[Finding]:
    """Nine frames through libx264 into an mp4 and back, the way every stage does it."""
    import numpy as np

    from mimir_ray.video.read import read_frames
    from mimir_ray.video.write import write_mp4

    frames = np.full((9, 64, 64, 3), 128, dtype=np.uint8)
    frames[:, :32] = 224
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.mp4"
        write_mp4(path, frames, fps=8)
        read = read_frames(str(path), range(len(frames)), timeout_s=30)
    error = float(np.abs(read.frames.astype(int) - frames.astype(int)).mean())
    if read.frames.shape != frames.shape or error > 4:
        yield failure(
            "codec",
            f"9 frames came back as {read.frames.shape}, {error:.1f} of 255 off on average",
            "reinstall PyAV from its wheel: pip install --force-reinstall av",
        )
    else:
        yield ok("codec", f"libx264 writes and {read.decoder} reads 9 frames, {error:.1f} of 255 off on average")


def shipped_weights() -> Iterator[Finding]:
    """The embedded base model and the finished Mimir on it."""
    from mimir_ray.shapes.weights import base_dir, mimir_dir

    for name, directory in (("base", Path(base_dir())), ("mimir", Path(mimir_dir()))):
        size = sum(file.stat().st_size for file in directory.rglob("*.safetensors"))
        if size and (directory / "model_index.json").is_file():
            yield ok("weights", f"{name}: {size / 1e6:.1f} MB at {directory}")
        else:
            yield failure(
                "weights",
                f"{name}: incomplete at {directory}",
                "reinstall mimir-ray, or make them: mimir shapes pretrain",
            )


def bases() -> Iterator[Finding]:
    """What the bases for one's own videos take of a GPU, by the formulas behind `mimir train --estimate`."""
    from mimir_ray.cli.training_estimate import gpu_gib
    from mimir_ray.recipes import by_name

    for name in ("mimir_2b", "mimir_5b"):
        recipe = by_name(name)
        alone = {"workers": 1, "accumulate": recipe.training.batch_size, "train": "lora"}
        adapters = recipe.model_copy(update={"training": recipe.training.model_copy(update=alone)})
        yield ok(
            "base",
            f"--recipe {name}, by formulas that no GPU has been held against: training takes {gpu_gib(recipe):.0f} GiB "
            f"of each of its {recipe.training.workers} GPUs, and adapters alone on one GPU {gpu_gib(adapters):.0f} GiB "
            f"(--set training.train=lora --set training.workers=1 --set training.accumulate={alone['accumulate']})",
        )


def ray_token() -> Iterator[Finding]:
    """Token authentication, which a local Ray turns on by itself and a remote client has to be told about."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    default = Path.home() / ".ray" / "auth_token"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else default
    if mode == "disabled":
        yield warning(
            "ray token",
            "RAY_AUTH_MODE=disabled: whoever reaches the cluster's ports can run code on it",
            "unset RAY_AUTH_MODE, or keep those ports closed",
        )
    elif os.environ.get("RAY_AUTH_TOKEN") or path.is_file():
        detail = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else str(path)
        if mode == "token":
            yield ok("ray token", detail)
        else:
            yield warning(
                "ray token",
                f"{detail} exists, so the next `ray start --head` here asks every client for it",
                "export RAY_AUTH_MODE=token before `ray job submit` or `mimir submit`",
            )
    elif named:
        yield failure("ray token", f"RAY_AUTH_TOKEN_PATH names {named}, which is not there", "correct or unset it")
    elif not os.access(default.parent if default.parent.exists() else Path.home(), os.W_OK):
        yield failure(
            "ray token",
            f"{default.parent} cannot be written",
            "set RAY_AUTH_TOKEN_PATH to a file with a token of yours",
        )
    else:
        yield ok("ray token", "none yet: the first local Ray writes ~/.ray/auth_token")


def ray_starts() -> Iterator[Finding]:
    """A local Ray, or the cluster that RAY_ADDRESS names: does it start and run a task?"""
    from mimir_ray.cli.ray_cluster import connect

    address = os.environ.get("RAY_ADDRESS")
    began = time.monotonic()
    try:
        connect()
    except UserError as error:
        yield failure("ray", str(error), "correct or unset RAY_ADDRESS")
        return
    import ray

    @ray.remote(num_cpus=1)
    def one() -> int:
        return 1

    ray.get(one.remote(), timeout=60)
    seconds = time.monotonic() - began
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    ray.shutdown()
    where = f"the cluster at {address}" if address else "a local Ray"
    yield ok(
        "ray",
        f"{ray.__version__}, {where} answers after {seconds:.0f} s with "
        f"{cpu_slots(resources.get('CPU', 0), address)} and {resources.get('GPU', 0):.0f} GPUs",
    )


def cpu_slots(cpus: float, address: str | None) -> str:
    """Ray's CPUs in words. They are slots for tasks, and on a small machine we ask for more of them than it has."""
    cores = os.cpu_count() or 1
    if address or cpus <= cores:
        return f"{cpus:.0f} CPUs"
    return f"{cpus:.0f} CPUs (slots for tasks, on {cores} real ones: training and what feeds it need as many to start)"
