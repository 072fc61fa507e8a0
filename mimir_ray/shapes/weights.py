"""Where the checkpoints that ship inside the package lie; each is a complete directory in diffusers' layout."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).parent / "weights"


def base_dir() -> str:
    """The T5-only base (`CogVideoXPipeline` layout)."""
    return str(_ROOT / "base")


def mimir_dir() -> str:
    """A finished Mimir on that base (`MimirPipeline` layout), with its LLM in `llm/` and `llm_tokenizer/`."""
    return str(_ROOT / "mimir")
