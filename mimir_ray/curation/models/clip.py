"""CLIP features of frames and of texts, of length 1. Shapes: `F` frames, `P` pieces of text, `N` tokens, `D` width."""

from math import ceil

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from mimir_ray.curation.models.config import Checkpoint
from mimir_ray.curation.models.loading import Frames, images, load, numbers


class ClipModel:
    """A CLIP model with its image processor and its tokenizer."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.model = load(CLIPModel, checkpoint)
        self.image_processor = AutoImageProcessor.from_pretrained(checkpoint.name, revision=checkpoint.revision)
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint.name, revision=checkpoint.revision)
        self.width: int = self.model.config.projection_dim
        self.max_tokens: int = self.model.config.text_config.max_position_embeddings
        """77 in every published CLIP, its start and end token included."""

    @torch.inference_mode()
    def image_features(self, frames_FHWC: Frames) -> Tensor:
        """F D float32. As CLIP does: the short side becomes 224 pixels and the centre square is seen."""
        pixels = self.image_processor(images(frames_FHWC), return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self.model.device, self.model.dtype)
        return self._unit(self.model.get_image_features(pixels).pooler_output)

    @torch.inference_mode()
    def text_features(self, texts: list[str]) -> Tensor:
        """P D float32, P the number of pieces: one of each text that CLIP can read whole, more of a longer one."""
        encoded = [ids for text in texts for ids in self.pieces(text)]
        batch = self.tokenizer.pad({"input_ids": encoded}, padding_side="right", return_tensors="pt")
        return self._unit(self.model.get_text_features(**batch.to(self.model.device)).pooler_output)

    def pieces(self, text: str) -> list[list[int]]:
        """Token ids of at most ``max_tokens`` each. A longer text is cut evenly: a short rest would say little."""
        marks = len(self.tokenizer("")["input_ids"])
        tokens = len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        count = max(1, ceil(tokens / (self.max_tokens - marks)))
        length = ceil(tokens / count) + marks
        pieces = self.tokenizer(text, truncation=True, max_length=length, return_overflowing_tokens=True)
        return [list(ids) for ids in pieces["input_ids"]]

    def _unit(self, features: Tensor) -> Tensor:
        return numbers(torch.nn.functional.normalize(features.float(), dim=-1), self.checkpoint)
