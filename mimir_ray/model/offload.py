"""Where a part computes whose weights diffusers' offloading keeps elsewhere until its ``forward`` is called."""

import torch
from diffusers.models.modeling_utils import get_parameter_device
from torch import nn


def execution_device(module: nn.Module) -> torch.device:
    """The device of a module's offload hooks, or without any where its weights lie."""
    for part in module.modules():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return torch.device(get_parameter_device(module))
