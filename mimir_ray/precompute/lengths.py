"""Captions of more tokens than the text encoder reads, which it truncates.

They are counted where a shard is encoded, and the counts are kept beside the shards.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from mimir_ray.config import Config
from mimir_ray.precompute.outcomes import Rejected
from mimir_ray.storage import Table, ahead, exists, join, read_json, write_json

if TYPE_CHECKING:
    from mimir_ray.model.text_branches import T5Branch


class TruncatedCaptions(Config):
    """How many captions were truncated, and by how much."""

    limit: int
    """Tokens that the text encoder reads."""
    captions: int
    longest: int
    """Tokens of the longest one; 0 where none was truncated."""
    example: str
    """The longest one."""

    def __str__(self) -> str:
        """A line for people."""
        shown = self.example if len(self.example) <= 60 else f"{self.example[:57]}..."
        return (
            f"captions truncated to the {self.limit} tokens that the text encoder reads: {self.captions:,}; the "
            f'longest has {self.longest} tokens: "{shown}". Shorten them, or set precompute.long_captions=reject'
        )


def truncated_captions(captions: Iterable[pa.Table], tokenizer: Any, limit: int) -> TruncatedCaptions:
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
    return TruncatedCaptions(limit=limit, captions=count, longest=longest, example=example)


def kept_counts(table: Table, shards: Collection[str]) -> dict[str, TruncatedCaptions]:
    """What earlier runs counted in these shards of `t5_tokens`. What they counted in others is forgotten for good, so
    that no count outlives its shard: call it before any of those is replaced."""
    held = read_json(_file(table)) if exists(_file(table)) else {}
    kept = {shard: TruncatedCaptions(**count) for shard, count in held.items() if shard in shards}
    if len(kept) < len(held):
        _write(table, kept)
    return kept


def keep_counts(
    table: Table, counts: Mapping[str, TruncatedCaptions], load_tokenizer: Callable[[], Any], limit: int
) -> TruncatedCaptions:
    """Keep the ``counts``, and the sum over all shards of `t5_tokens`.

    What is not among them is counted here, which needs the tokenizer: shards of a run that was stopped.
    """
    shards = table.shards()
    all_counts = {shard: counts[shard] for shard in shards if shard in counts}
    if missing := [shard for shard in shards if shard not in all_counts]:
        tokenizer = load_tokenizer()
        read = ahead(partial(table.read, columns=["text", "status"]), missing)
        all_counts |= {
            shard: truncated_captions([rows], tokenizer, limit) for shard, rows in zip(missing, read, strict=True)
        }
    _write(table, all_counts)
    nothing = TruncatedCaptions(limit=limit, captions=0, longest=0, example="")
    longest = max(all_counts.values(), key=lambda count: count.longest, default=nothing)
    return longest.model_copy(update={"captions": sum(count.captions for count in all_counts.values())})


def _file(table: Table) -> str:
    return join(table.uri, "_lengths.json")


def _write(table: Table, counts: Mapping[str, TruncatedCaptions]) -> None:
    write_json(_file(table), {shard: counts[shard].model_dump(mode="json") for shard in sorted(counts)})


def refused(texts: Iterable[str], branch: "T5Branch") -> dict[str, Rejected]:
    """Why those of the texts are rejected that are too long."""
    counts = {text: branch.token_count(text) for text in texts}
    return {
        text: Rejected(
            f"the caption has {count} text tokens; this model reads {branch.max_length}: shorten it by "
            f"{count - branch.max_length} tokens or more, or set precompute.long_captions=truncate"
        )
        for text, count in counts.items()
        if count > branch.max_length
    }
