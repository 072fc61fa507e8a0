"""Captions of more tokens than the text encoder reads, which it cuts."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from mimir_ray.config import Config
from mimir_ray.precompute.outcomes import Rejected

if TYPE_CHECKING:
    from mimir_ray.model.text_branches import T5Branch


class CutCaptions(Config):
    """How many captions were cut, and by how much."""

    limit: int
    """Tokens that the text encoder reads."""
    captions: int
    longest: int
    """Tokens of the longest one; 0 where none was cut."""
    example: str
    """The longest one."""

    def __str__(self) -> str:
        """For people: a line."""
        shown = self.example if len(self.example) <= 60 else f"{self.example[:57]}..."
        return (
            f"captions cut to the {self.limit} tokens that the text encoder reads: {self.captions:,}; the longest has "
            f'{self.longest} tokens: "{shown}". Shorten them, or set precompute.long_captions=reject'
        )


def cut_captions(captions: Iterable[pa.Table], tokenizer: Any, limit: int) -> CutCaptions:
    """Count what is longer than ``limit`` among captions that are ok, given as tables of ``text`` and ``status``.

    Only texts that may be too long are tokenized: of plain ASCII, a token takes a character at least.
    """
    from mimir_ray.model.text_branches import token_counts

    added = tokenizer.num_special_tokens_to_add() + 1  # and the mark that begins a word
    count, longest, example = 0, 0, ""
    for rows in captions:
        texts = rows.filter(pc.equal(rows["status"], "ok"))["text"].to_pylist()
        doubtful = [text for text in texts if not text.isascii() or len(text) + added > limit]
        for text, tokens in zip(doubtful, token_counts(tokenizer, doubtful), strict=True):
            count += tokens > limit
            if tokens > max(limit, longest):
                longest, example = tokens, text
    return CutCaptions(limit=limit, captions=count, longest=longest, example=example)


def refused(texts: Iterable[str], branch: "T5Branch") -> dict[str, Rejected]:
    """Why those of the texts are rejected that are too long."""
    counts = {text: branch.token_count(text) for text in texts}
    return {
        text: Rejected(
            f"the caption has {count} text tokens; this model reads {branch.max_length}: shorten it by "
            f"{count - branch.max_length} tokens or more, or let it be cut with precompute.long_captions=cut"
        )
        for text, count in counts.items()
        if count > branch.max_length
    }
