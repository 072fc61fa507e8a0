"""What metrics say of pace and loss, in a process group of one."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from mimir_ray.training.reporting.telemetry import TIMESTEP_BINS, loss_by_timestep, peak_memory_gib, peak_tflops


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_each_tenth_of_the_schedule_has_its_own_mean() -> None:
    losses = torch.tensor([1.0, 3.0, 5.0, 7.0, 0.5])
    timesteps = torch.tensor([0, 99, 100, 999, 550])
    found = loss_by_timestep(losses, timesteps, 1000)
    assert len(found) == TIMESTEP_BINS
    assert found[:2] == [2.0, 5.0]
    assert (found[5], found[9]) == (0.5, 7.0)
    assert found[2:5] + found[6:9] == [None] * 6


def test_the_peak_of_a_device_is_known_or_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda:0")
    names = {
        "NVIDIA H100 80GB HBM3": (989.4, 67.0),
        "NVIDIA A100-SXM4-80GB": (312.0, 19.5),
        "NVIDIA GeForce RTX 4090": (165.2, 82.6),
        **dict.fromkeys(["NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA A100-SXM4-40GB"], (None, None)),
        **dict.fromkeys(["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"], (None, None)),
        "NVIDIA RTX A1000": (None, None),
    }
    for name, peaks in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device, name=name: name)
        assert (peak_tflops(gpu, "bf16"), peak_tflops(gpu, "fp32")) == peaks, name
    assert peak_tflops(torch.device("cpu"), "bf16") is None


def test_memory_is_that_of_this_process() -> None:
    assert 0.05 < peak_memory_gib(torch.device("cpu")) < 1000
