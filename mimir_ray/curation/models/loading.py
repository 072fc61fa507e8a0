"""What every scorer with a model needs: a device, a number format, and frames as images."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mimir_ray.config import UserError
from mimir_ray.curation.models.config import Checkpoint

Frames = NDArray[np.uint8]
"""F H W 3, RGB."""


def load(cls: Any, checkpoint: Checkpoint) -> Any:
    """A transformers model for inference.

    Raises UserError for a model that is not there or is not whole as a ``cls``, and for a GPU that is not there.
    """
    if checkpoint.device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{checkpoint.name}: device is cuda, but this process sees no GPU; set device=auto or cpu")
    device = "cuda" if checkpoint.device != "cpu" and torch.cuda.is_available() else "cpu"
    try:
        model, report = cls.from_pretrained(
            checkpoint.name,
            revision=checkpoint.revision,
            dtype=getattr(torch, checkpoint.dtype),
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"cannot load {checkpoint.name}: {cause}; name a model's directory or hub id") from error
    if report["missing_keys"]:  # transformers fills them with random numbers and goes on
        raise UserError(
            f"{checkpoint.name} lacks {len(report['missing_keys'])} weights of a {type(model).__name__}, such as "
            f"{min(report['missing_keys'])}; name a model of that class"
        )
    return model.to(device).eval()


def numbers(values: Tensor, checkpoint: Checkpoint) -> Tensor:
    """``values``, which must hold no NaN: a limit would let it pass.

    Raises UserError where the number format was too narrow, which fits no clip, ValueError where it was not.
    """
    if values.isnan().any():
        if checkpoint.dtype != "float16":
            raise ValueError(f"{checkpoint.name} computes NaN of this clip")
        raise UserError(
            f"{checkpoint.name} computes numbers that do not fit {checkpoint.dtype}; set dtype to bfloat16 or float32"
        )
    return values


def images(frames_FHWC: Frames) -> list[Image.Image]:
    """Frames as the image processors take them without any guess about the order of axes."""
    return [Image.fromarray(frame_HWC) for frame_HWC in frames_FHWC]
