#!/usr/bin/env bash
# diffusers 0.42.1: with timestep_spacing="trailing", 62 of the step counts from 1 to 1000 get one timestep more than was
# asked for, 61 the first of them. The last one is -1, before the first training step, so the transformer is run once on
# a timestep that it never saw. Four schedulers were looked at: their arange counts down by 1000 / steps in floats.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --root-user-action ignore --target "$folder" "diffusers==0.42.1" "torch==2.13.0" "numpy<3"
PYTHONPATH=$folder python3 - <<'PY'
import sys

import diffusers

found = {}
for name in ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler"):
    scheduler = getattr(diffusers, name)(timestep_spacing="trailing")
    longer = []
    for steps in range(1, 1001):
        scheduler.set_timesteps(steps)
        if len(scheduler.timesteps) != steps:
            longer.append((steps, len(scheduler.timesteps), int(scheduler.timesteps[-1])))
    found[name] = longer
    print(f"{name}: {len(longer)} step counts, first {longer[:4]} as (asked for, timesteps, last timestep)")
print(f"diffusers {diffusers.__version__}")
as_seen = all(len(longer) == 62 and longer[0] == (61, 62, -1) for longer in found.values())
sys.exit(0 if as_seen else 1)
PY
