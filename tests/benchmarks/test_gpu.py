"""The benchmark for a GPU, dry: the same code at a tiny size on the CPU, and what is left of a run that fails."""

import json
import statistics
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_parts
from benchmarks.gpu_bench import RUNS, SIZES, Bench, machine
from mimir_ray.model.flops import forward_flops, training_flops

DRY = ["sampling", "decoding", "lora", "fuser", "full"]
"""All but the compiled one, which takes a C++ compiler most of a minute."""
TEXT, LATENTS = 24 + 4, (3, 16, 8, 8)


ABSENT = ("ray", "av", "cv2", "decord", "scenedetect")
"""Needed elsewhere in the package, and not carried to a bare machine (``gpu_wheels.txt``)."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("gpu")
    for name in ABSENT:
        (folder / f"{name}.py").write_text("raise ImportError('it is not on this machine')\n")
    out = folder / "gpu.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        gpu.main(["--size", "tiny", "--device", "cpu", "--limit-s", "280", "--out", str(out), "--parts", *DRY])
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def bench(rows: list[dict[str, Any]]) -> Bench:
    return Bench(SIZES["tiny"], torch.device("cpu"), "part", rows.append)


def test_it_tells_where_and_how_it_was_measured(report: dict[str, Any]) -> None:
    assert {"date", "command", "limit_s", "elapsed_s", "hardware", "versions", "model", "parts"} == set(report)
    assert "--size tiny" in report["command"]
    assert report["hardware"]["device"] == "cpu"
    assert report["versions"]["torch"] == torch.__version__
    assert report["versions"]["diffusers"]
    assert report["model"]["video"] == [9, 64, 64]


def test_every_part_is_done_and_every_figure_is_the_median_of_its_runs(report: dict[str, Any]) -> None:
    assert set(gpu.PARTS) == set(gpu_parts.PARTS) == {*DRY, "compiled"}
    assert {name: part["ended"] for name, part in report["parts"].items()} == dict.fromkeys(DRY, "done")
    assert sum(part["wall_s"] for part in report["parts"].values()) < report["elapsed_s"]
    figures = {(name, key): values for name in DRY for key, values in report["parts"][name]["figures"].items()}
    ratio = figures.pop(("sampling", "mimir / diffusers"))
    assert set(figures) == {
        *(("sampling", name) for name in ("matrix product", "mimir", "diffusers")),
        *(("decoding", name) for name in ("whole", "tiled")),
        *((part, name) for part in ("lora", "fuser", "full") for name in ("plain", "mimir")),
    }
    for name, values in figures.items():
        assert len(values["runs_s"]) == RUNS, name
        assert values["seconds"] == statistics.median(values["runs_s"]) > 0, name
        assert values["share_of_peak"] is None, name  # nobody knows what this CPU can do
        assert values["peak_memory_gib"] is None, name
    both = (figures["sampling", name]["runs_s"] for name in ("mimir", "diffusers"))
    assert ratio["ratio"] == statistics.median(mine / other for mine, other in zip(*both, strict=True))
    assert ratio["same_latents"]


def test_operations_are_counted_by_the_model_s_own_formulas(report: dict[str, Any]) -> None:
    parts = {name: part["figures"] for name, part in report["parts"].items()}
    with torch.device("meta"):
        from diffusers import CogVideoXTransformer3DModel

        config = CogVideoXTransformer3DModel(**SIZES["tiny"].transformer).config
    assert parts["sampling"]["mimir"]["latents"] == list(LATENTS)
    guided = 2 * forward_flops(config, LATENTS, TEXT) / 1e12
    assert [parts["sampling"][name]["tflop"] for name in ("mimir", "diffusers")] == [guided, guided]
    for part in ("lora", "fuser", "full"):
        step = training_flops(config, LATENTS, TEXT, frozen=part != "full") / 1e12
        assert [parts[part][name]["tflop"] for name in ("plain", "mimir")] == [step, step]
    assert 0 < parts["decoding"]["whole"]["tflop"] < parts["decoding"]["tiled"]["tflop"]  # tiles overlap
    assert (parts["full"]["mimir"]["zero_stage"], parts["full"]["mimir"]["offload"]) == (3, "optimizer")
    assert parts["fuser"]["mimir"]["trained_parameters"] < parts["lora"]["mimir"]["trained_parameters"]
    assert parts["full"]["mimir"]["estimated_gib"] > 0


def test_the_large_size_is_that_of_the_published_model() -> None:
    large = Bench(SIZES["5b"], torch.device("meta"), "part", lambda row: None)
    assert large.latent_shape() == (13, 16, 60, 90)
    transformer = large.transformer()
    assert sum(weight.numel() for weight in transformer.parameters()) == pytest.approx(5.57e9, rel=5e-3)
    assert {weight.dtype for weight in transformer.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32


def test_on_a_card_a_figure_has_its_share_of_the_peak_and_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(
        name="NVIDIA H100 80GB HBM3", major=9, minor=0, multi_processor_count=132, total_memory=2**36
    )
    waits: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: card.name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 4 * 2**30)
    device, rows = torch.device("cuda", 0), list[dict[str, Any]]()
    made = Bench(SIZES["tiny"], device, "part", rows.append)
    made.measure({"sum": lambda: sum(range(1000))}, 5 * 10**12, per=2, more="said")
    (row,) = rows
    assert row["share_of_peak"] == pytest.approx(row["tflop"] / (row["seconds"] * 989.4))
    assert (row["part"], row["figure"], row["tflop"], row["more"]) == ("part", "sum", 5.0, "said")
    assert (row["peak_memory_gib"], row["reserved_gib"]) == (3, 4)
    assert len(waits) == 2 * (1 + RUNS)
    hardware = machine(SIZES["tiny"], device)["hardware"]
    assert (hardware["name"], hardware["compute_capability"], hardware["peak_tflops"]) == (card.name, "9.0", 989.4)
    assert hardware["memory_gib"] == 64


def test_calls_are_run_in_turns_and_seconds_are_of_one_piece_of_work() -> None:
    order: list[str] = []
    rows: list[dict[str, Any]] = []
    seconds = bench(rows).measure({name: lambda name=name: order.append(name) for name in "ab"}, 1, per=4)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(runs) for name, runs in seconds.items()} == {"a": RUNS, "b": RUNS}


def test_a_figure_that_does_not_fit_is_skipped_with_the_reason_and_the_next_is_measured() -> None:
    rows: list[dict[str, Any]] = []
    made = bench(rows)
    with made.within_memory("whole"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40 GiB\nmore words")
    made.measure({"tiled": lambda: None}, 1)
    assert rows[0]["skipped"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 40 GiB"
    assert rows[1]["figure"] == "tiled"


def measured(program: str, limit_s: float) -> dict[str, Any]:
    """What is left of a process that writes one figure to the file that it is given, ``$0``, and goes on so."""
    lines = [
        {"hardware": {"name": "a card"}},
        {"part": "lora", "figure": "plain", "seconds": 1.5, "share_of_peak": 0.4},
    ]
    written = "".join(f"echo '{json.dumps(line)}' >> $0; " for line in lines)
    report: dict[str, Any] = {"parts": {}}
    gpu.run_parts(["sh", "-c", written + program], ["lora"], limit_s, report)
    if limit_s > 0:
        assert report["hardware"] == {"name": "a card"}
        assert report["parts"]["lora"]["figures"] == {"plain": {"seconds": 1.5, "share_of_peak": 0.4}}
    found: dict[str, Any] = report["parts"]["lora"]
    return found


@pytest.mark.parametrize(
    ("program", "limit_s", "reason"),
    [
        ("sleep 60", 2, "it was ended after the 2 s that it had"),
        ('printf \'{"part": "lo\' >> $0; kill -9 $$', 60, "its process ended with signal 9"),
        ("echo 'Traceback'; echo 'the driver is too old' >&2; exit 1", 60, "with status 1: the driver is too old"),
        ("", 0, "no time was left for it"),
    ],
)
def test_what_was_measured_outlives_its_process(program: str, limit_s: float, reason: str) -> None:
    part = measured(program, limit_s)
    assert reason in part["ended"]
    assert part["wall_s"] < 30


def test_a_summary_is_one_line_of_figures_and_what_went_wrong() -> None:
    figures = {
        "plain": {"seconds": 1.5, "share_of_peak": 0.4},
        "mimir": {"skipped": "DeepSpeed is not installed"},
        "mimir / diffusers": {"ratio": 0.98},
    }
    text = gpu.summary({"ended": "it was ended after the 90 s that it had", "figures": figures})
    assert text == (
        "plain 1.5 s (40% of the peak), mimir DeepSpeed is not installed, mimir / diffusers 0.98, "
        "it was ended after the 90 s that it had"
    )
