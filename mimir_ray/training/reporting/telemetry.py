"""What a row of metrics says of a run's pace and of where its loss comes from. Every rank makes the same calls."""

import resource
import sys

import torch
import torch.distributed as dist
from torch import Tensor

from mimir_ray.model.flops import known_gpu

TIMESTEP_BINS = 10


def loss_by_timestep(losses: Tensor, timesteps: Tensor, schedule_length: int) -> list[float | None]:
    """Mean loss of all workers' samples in each tenth of the schedule, the least noise first; None without a sample.

    Losses and timesteps are those of this worker, one for each sample; a loss that is not finite takes no part.
    """
    finite = torch.isfinite(losses)
    losses, timesteps = losses[finite], timesteps.to(losses.device)[finite]
    bins = timesteps * TIMESTEP_BINS // schedule_length
    sums = torch.zeros(2, TIMESTEP_BINS, dtype=torch.float32, device=losses.device)
    sums[0].index_add_(0, bins, losses.float())
    sums[1].index_add_(0, bins, torch.ones_like(losses, dtype=torch.float32))
    dist.all_reduce(sums)
    return [total / count if count else None for total, count in zip(*sums.tolist(), strict=True)]


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """What one device can do at most; None where that is not known."""
    if device.type != "cuda":
        return None
    gpu = known_gpu(torch.cuda.get_device_name(device))
    return gpu.peak(precision) if gpu else None


def peak_memory_gib(device: torch.device) -> float:
    """The most that this worker has held so far: of its GPU, or of main memory without one."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
