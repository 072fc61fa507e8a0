"""What a row of metrics says of a run's pace and of where its loss comes from. Every rank makes the same calls."""

import resource
import sys

import torch
import torch.distributed as dist
from torch import Tensor

TIMESTEP_BINS = 10

PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.2,
}
"""Dense bfloat16 peaks of the makers' data sheets, by a part of the device's name; the first that fits counts."""


def loss_by_timestep(losses: Tensor, timesteps: Tensor, schedule_length: int) -> list[float | None]:
    """Mean loss of all workers' samples in each tenth of the schedule, the least noise first; None without a sample.

    Losses and timesteps are those of this worker, one for each sample.
    """
    bins = timesteps.to(losses.device) * TIMESTEP_BINS // schedule_length
    sums = torch.zeros(2, TIMESTEP_BINS, dtype=torch.float32, device=losses.device)
    sums[0].index_add_(0, bins, losses.float())
    sums[1].index_add_(0, bins, torch.ones_like(losses, dtype=torch.float32))
    dist.all_reduce(sums)
    return [total / count if count else None for total, count in zip(*sums.tolist(), strict=True)]


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """What one device can do at most; None where that is not known."""
    if device.type != "cuda" or precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def peak_memory_gib(device: torch.device) -> float:
    """The most that this worker has held so far: of its GPU, or of main memory without one."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
