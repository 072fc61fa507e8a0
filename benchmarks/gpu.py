"""What one CUDA device does with CogVideoX-5B and Mimir at 49 x 480 x 720, with random weights and without Ray.

    python -m benchmarks.gpu                                                  # 8 minutes at most; writes gpu.json
    python -m benchmarks.gpu --parts sampling decoding --limit-s 200 --out some.json
    python -m benchmarks.gpu --size tiny --device cpu --out /tmp/gpu.json     # the same code in seconds

Each part is a process of its own, which starts with an empty device and is ended when its time is up:

    sampling    a guided step of our sampler and of diffusers' ``CogVideoXPipeline``, in turns
    decoding    the VAE's decoder, whole and in tiles
    lora        a training step: adapters on a frozen transformer, and the token fuser
    fuser       a training step: the token fuser alone
    compiled    a guided step of our sampler on blocks that ``torch.compile`` compiled
    full        a training step: everything, under ZeRO-3 with the optimiser in main memory

Training steps are those of ``training.engine`` (DeepSpeed; left out with a reason where it is missing) beside a plain
torch loop over the same module, whose AdamW works in bfloat16 on the device. The JSON is written anew after each part,
so that a part that runs out of time or memory takes no other with it. Of every figure it tells:

    seconds             median of ``runs_s``, each between two waits for the device; before them came a whole run of
                        ``warmup_s``, compilation included
    tflop               done in that time: ``model.flops`` for the transformer, torch's counter for the decoder
    share_of_peak       tflop / seconds over the data sheet's TFLOPS (MFU); null for a device that is not known
    peak_memory_gib     the most that torch's tensors held; ``reserved_gib`` with what its allocator keeps
    estimated_gib       what ``training.memory`` counts for it, the runtime left out; ``host_estimated_gib`` likewise
    host_used_gib       by how much the machine's used memory grew

A machine with torch 2.11 and nothing else, not even a network, needs this tree and a folder of wheels, made elsewhere
(109 MiB, or 41 where numpy and pyarrow are there and taken off the list):

    pip download --no-deps -c constraints.txt -r benchmarks/gpu_wheels.txt -d wheels --only-binary=:all: \\
        --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \\
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64
    pip wheel --no-deps -c constraints.txt deepspeed -w wheels                # published as source alone
    # and there
    pip install --no-index --no-deps --target site wheels/*.whl && PYTHONPATH=site python -m benchmarks.gpu
"""

import argparse
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
PARTS = {"sampling": 130, "decoding": 100, "lora": 90, "fuser": 90, "compiled": 130, "full": 300}
"""Seconds that each may take, the most telling first. The last gets what the others leave, and may exhaust main memory.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--size", choices=("5b", "tiny"), default="5b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--limit-s", type=float, default=480.0, help="for all parts together")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    began = time.monotonic()
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *(sys.argv[1:] if arguments is None else arguments)]),
        "limit_s": options.limit_s,
        "parts": {},
    }
    # The tiny size measures nothing that a neighbour could disturb, and starting torch takes longer than its parts.
    together = options.size == "tiny"
    for parts in [options.parts] if together else [[part] for part in options.parts]:
        left = options.limit_s - (time.monotonic() - began)
        program = [sys.executable, "-m", "benchmarks.gpu_parts", options.size, options.device, *parts]
        run_parts(program, parts, min(left, sum(PARTS[part] for part in parts)), report)
        report["elapsed_s"] = time.monotonic() - began
        options.out.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
        for part in parts:
            logger.info("%s: %s", part, summary(report["parts"][part]))


def run_parts(program: Sequence[str], parts: Sequence[str], limit_s: float, report: dict[str, Any]) -> None:
    """Run ``program``, which measures ``parts``, and add to ``report`` what it found before its end or ``limit_s``.

    Args:
        program: gets one argument more: the file to which it writes a line of JSON for whatever it knows (``gpu_parts``
            says what is in them).
    """
    with tempfile.TemporaryDirectory() as directory:
        record, words = Path(directory) / "record.jsonl", Path(directory) / "words.txt"
        began = time.monotonic()
        reason = "no time was left for it"
        if limit_s > 0:
            with words.open("wb") as stream:
                process = subprocess.Popen(
                    [*program, str(record)], stdout=stream, stderr=stream, cwd=ROOT, start_new_session=True
                )
                try:
                    status = process.wait(limit_s)
                    end = f"signal {-status} (9 where main memory is wanting)" if status < 0 else f"status {status}"
                    last = words.read_text(errors="replace").strip().rpartition("\n")[2]
                    reason = f"its process ended with {end}: {last}"
                except subprocess.TimeoutExpired:
                    reason = f"it was ended after the {limit_s:.0f} s that it had"
                finally:
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)  # with the compilers that it started
                        process.wait()
        found = {part: {"ended": reason, "wall_s": time.monotonic() - began, "figures": {}} for part in parts}
        for line in record.read_text().splitlines() if record.exists() else []:
            try:
                row = json.loads(line)
            except ValueError:  # the process was ended while it wrote
                continue
            if (part := row.pop("part", None)) is None:
                report |= row
            elif (figure := row.pop("figure", None)) is None:
                found[part] |= row
            else:
                found[part]["figures"][figure] = row
        report["parts"] |= found


def summary(part: dict[str, Any]) -> str:
    """One line for people."""
    figures = [f"{name} {text}" for name, values in part["figures"].items() if (text := _figure(values))]
    return ", ".join(figures + [part["ended"]] * (part["ended"] != "done"))


def _figure(values: dict[str, Any]) -> str:
    if "seconds" not in values:
        return str(values.get("skipped") or values.get("ratio") or "")
    share = values["share_of_peak"]
    return f"{values['seconds']:.3g} s" + (f" ({share:.0%} of the peak)" if share else "")


if __name__ == "__main__":
    main()
