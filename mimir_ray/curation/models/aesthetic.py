"""Aesthetic score from 1 to 10: the LAION improved aesthetic predictor on CLIP features."""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mimir_ray.config import UserError
from mimir_ray.curation.models.clip import ClipModel
from mimir_ray.curation.models.config import AestheticConfig
from mimir_ray.curation.models.loading import Frames

HEAD = "sac+logos+ava1-l14-linearMSE.pth"


class AestheticScore(NamedTuple):
    """Over the frames of a clip."""

    mean: float
    min: float


class Aesthetic:
    """Scores clips. Raises UserError where the head is missing or does not fit CLIP's features."""

    def __init__(self, config: AestheticConfig) -> None:
        self.clip = ClipModel(config.clip)
        self.head = load_head(_located(config), self.clip.width).to(self.clip.model.device)

    @torch.inference_mode()
    def __call__(self, frames_FHWC: Frames) -> AestheticScore:
        """Mean and lowest score of the frames of one clip."""
        scores_F: Tensor = self.head(self.clip.image_features(frames_FHWC)).squeeze(-1)
        return AestheticScore(mean=float(scores_F.mean()), min=float(scores_F.min()))


def load_head(path: str | Path, width: int) -> nn.Sequential:
    """The head for features of ``width``, in float32.

    Published as `layers.N.weight` and `.bias`, linear layers with dropout and no activations between them; dropout does
    nothing here, so the layers are all. Widths follow the file.
    """
    state = _state(Path(path))
    names = sorted({name.rpartition(".")[0] for name in state}, key=lambda name: (len(name), name))
    weights = [state.get(f"{name}.weight", torch.empty(0)) for name in names]
    biases = [state.get(f"{name}.bias", torch.empty(0)) for name in names]
    fits = all(
        weight.ndim == 2 and bias.shape == weight.shape[:1] for weight, bias in zip(weights, biases, strict=True)
    )
    if not (weights and fits and all(b.shape[1] == a.shape[0] for a, b in pairwise(weights)) and len(weights[-1]) == 1):
        raise UserError(
            f"{path} is no aesthetic head: linear layers layers.N.weight and layers.N.bias from the features to one "
            f"score are needed; use the published {HEAD}"
        )
    if weights[0].shape[1] != width:
        raise UserError(
            f"the aesthetic head {path} reads features of width {weights[0].shape[1]}, and CLIP gives {width}: "
            f"{HEAD} belongs to openai/clip-vit-large-patch14 (768)"
        )
    layers = [nn.Linear(weight.shape[1], weight.shape[0]) for weight in weights]
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})
    return nn.Sequential(*layers).eval()


def _state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"cannot read the aesthetic head {path}: {error}; download {HEAD} again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict; use the published {HEAD}")
    return state


def _located(config: AestheticConfig) -> str:
    """The head's file on this machine, downloaded where it is on the hub."""
    if Path(config.head).is_file():
        return config.head
    owner, _, rest = config.head.partition("/")
    repository, _, file = rest.partition("/")
    if not (owner and repository and file):
        raise UserError(
            f"there is no aesthetic head at {config.head}: give the path of {HEAD}, or owner/repository/file on the hub"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return hf_hub_download(f"{owner}/{repository}", file, revision=config.head_revision)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"there is no aesthetic head at {config.head}, here or on the hub: {cause}") from error
