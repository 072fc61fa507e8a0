"""Which stretch of each parameter this worker owns under ZeRO. Knows DeepSpeed's internals, as its version is exact.

Every stage flattens the float32 weights of a group of parameters, and gives each worker a part of the flat tensor; the
optimiser's states belong to that part. Stages 1 and 2 cut the group, so a worker owns few parameters and most of them
whole; stage 3 cuts each parameter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Owned:
    """Elements ``start`` to ``start + length`` of a parameter are ``flat[offset : offset + length]``."""

    name: str
    whole: int
    """Elements of the parameter."""
    start: int
    length: int
    flat: Tensor
    """Float32; the key of the optimiser's state."""
    offset: int

    def of(self, like_flat: Tensor) -> Tensor:
        """This parameter's stretch of a tensor that is laid out as ``flat``; shares its memory."""
        return like_flat.narrow(0, self.offset, self.length)


def owned(zero: Any, module: nn.Module) -> Iterator[Owned]:
    """What this worker owns of each trained parameter of ``module``; nothing of some.

    Args:
        zero: DeepSpeed's optimiser.
    """
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        part: Any = parameter
        if hasattr(parameter, "ds_id"):
            group, offset, padded = zero.grad_position[zero.get_param_id(parameter)]
            start = torch.distributed.get_rank() * padded
            length = max(0, min(padded, part.ds_numel - start))
            found = Owned(name, part.ds_numel, start, length, zero.fp32_partitioned_groups_flat[group], offset)
        elif (mapping := part._hp_mapping) is not None:
            (flat,) = zero.optimizer.param_groups[mapping.param_group_index]["params"]
            place, there = mapping.lp_fragment_address, mapping.hp_fragment_address
            found = Owned(name, parameter.numel(), place.start, place.numel, flat, there.start)
        else:
            continue
        if found.length:
            yield found


def owned_gradients(zero: Any, module: nn.Module) -> dict[str, Tensor]:
    """Gradients of what this worker owns, as ``owned`` cuts it: there from the last backward pass to the update."""
    from deepspeed.utils import safe_get_local_grad

    gradients = {}
    for part in owned(zero, module):
        parameter: Any = module.get_parameter(part.name)
        if hasattr(parameter, "ds_id"):
            gradient = safe_get_local_grad(parameter).flatten()[: part.length]
        else:
            gradient = parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group).flatten()
            if len(gradient) == part.whole:  # stage 1 with bfloat16 keeps the whole one everywhere
                gradient = gradient.narrow(0, part.start, part.length)
        gradients[part.name] = gradient
    return gradients


def publish(zero: Any) -> None:
    """Make the weights that the model computes with those that the workers own. Every worker must call it."""
    if hasattr(zero, "update_lp_params"):
        zero.update_lp_params()
        return
    zero.checkpoint_event_prologue()
    for computed, master in zip(zero.fp16_partitioned_groups_flat, zero.fp32_partitioned_groups_flat, strict=True):
        computed.data.copy_(master.data)
    for computed, parts in zip(zero.fp16_partitioned_groups_flat, zero.fp16_partitioned_groups, strict=True):
        for part, values in zip(parts, zero.unflatten(computed, parts), strict=True):
            part.data = values.data
    zero.checkpoint_event_epilogue()
