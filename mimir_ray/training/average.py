"""AdamW that also keeps an exponential moving average of the weights."""

from collections.abc import Callable
from typing import Any

import torch

AVERAGE = "average"
"""Name of the average in the optimiser's state."""


def decay_at(step: int, decay: float) -> float:
    """Decay of the average at step ``step`` (counted from 0): small at first, so that the start is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


class AveragingAdamW(torch.optim.AdamW):
    """AdamW whose groups may hold ``average_decay``; the average is then part of each weight's state.

    As a state of the optimiser the average is sharded, kept in float32 and saved with everything else of it: ZeRO hands
    it the float32 weights that each worker owns. A step that is left out does not touch the average.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of AdamW, then of the average."""
        loss = super().step(closure)
        for group in self.param_groups:
            decay = group.get("average_decay")
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if decay is None or not weights:  # ZeRO-3 steps one group at a time, with the others empty
                continue
            for weight in weights:
                if AVERAGE not in self.state[weight]:
                    self.state[weight][AVERAGE] = weight.detach().clone()
            averages = [self.state[weight][AVERAGE] for weight in weights]
            torch._foreach_lerp_(averages, [weight.detach() for weight in weights], 1 - decay)
        return loss
