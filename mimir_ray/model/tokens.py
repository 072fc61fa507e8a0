"""``TextTokens``: what the text branches hand to the token fuser."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from mimir_ray.model.config import SEMANTIC_TOKENS


@dataclass(frozen=True)
class TextTokens:
    """Tokens of a batch of prompts. Without an LLM the last three have length and width 0 (``from_t5``)."""

    t5: Tensor
    """B N D: T5 tokens, pads included (CogVideoX attends to them)."""
    llm: Tensor
    """B L E: query then answer states of the LLM, padded on the right."""
    llm_mask: Tensor
    """B L bool: True where ``llm`` holds a token."""
    instruction: Tensor
    """B 4 E: one token for each instruction's answer."""

    @classmethod
    def from_t5(cls, t5: Tensor) -> Self:
        """Tokens of the baseline, which has no LLM."""
        batch = t5.shape[0]
        empty = t5.new_zeros(batch, 0, 0)
        return cls(t5, empty, empty.new_zeros(batch, 0, dtype=torch.bool), empty)

    @classmethod
    def blank(cls, rows: int, fuser: Any, device: torch.device) -> Self:
        """Zeros in a token fuser's sizes and no LLM tokens, for a null condition, which reads none of them.

        Args:
            fuser: its configuration.
        """
        t5 = torch.zeros(rows, fuser.text_length, fuser.text_dim, device=device)
        llm = t5.new_zeros(rows, 0, fuser.llm_dim)
        return cls(
            t5, llm, llm.new_zeros(rows, 0, dtype=torch.bool), t5.new_zeros(rows, SEMANTIC_TOKENS, fuser.llm_dim)
        )

    @classmethod
    def collate(
        cls,
        t5: Tensor,
        queries: Sequence[Tensor],
        answers: Sequence[Tensor],
        instruction: Tensor,
        length: int | None = None,
    ) -> Self:
        """Join each row's query (Lq E) and answer (La E) states and pad them; longer than ``length`` is truncated.

        ``length`` is the fuser's text_length; None pads to the longest row.
        """
        rows = [torch.cat([query, answer]) for query, answer in zip(queries, answers, strict=True)]
        longest = max(row.shape[0] for row in rows) if length is None else length
        llm = rows[0].new_zeros(len(rows), longest, rows[0].shape[1])
        mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=llm.device)
        for index, row in enumerate(rows):
            used = min(row.shape[0], longest)
            llm[index, :used] = row[:used]
            mask[index, :used] = True
        if instruction.shape[:2] != (len(rows), SEMANTIC_TOKENS):
            raise ValueError(
                f"instruction tokens are {tuple(instruction.shape)}; expected {len(rows)} x {SEMANTIC_TOKENS} x E"
            )
        return cls(t5, llm, mask, instruction)

    def __len__(self) -> int:
        return self.t5.shape[0]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move every tensor and convert the floating ones; the mask stays bool."""
        floats = (x.to(device=device, dtype=dtype) for x in (self.t5, self.llm, self.instruction))
        t5, llm, instruction = floats
        return type(self)(t5, llm, self.llm_mask.to(device=device), instruction)

    def select(self, rows: slice | Sequence[int] | Tensor) -> Self:
        """The tokens of some rows of the batch."""
        index = rows if isinstance(rows, slice | Tensor) else torch.as_tensor(rows, device=self.t5.device)
        return type(self)(self.t5[index], self.llm[index], self.llm_mask[index], self.instruction[index])
