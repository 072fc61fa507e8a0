"""The memory tables of docs/memory.md, computed anew from the recipes.

python -m tests.cli.memory_tables        # writes them into the page
"""

from typing import Any

from mimir_ray.cli.training_estimate import columns, rows
from mimir_ray.config import override
from mimir_ray.recipes import Recipe, by_name
from mimir_ray.training.sizing.memory import GIB, estimate_memory, read_sizes
from tests.cli.command import ROOT

PAGE = ROOT / "docs" / "memory.md"
BEGIN, END = "<!-- memory tables -->\n", "<!-- end of memory tables -->\n"
GPU = "H100"
SHAPES_LATENTS = (3, 16, 8, 8)


def tables() -> str:
    """Markdown of every table."""
    parts = [_shapes()]
    for name in ("mimir_2b", "mimir_5b"):
        recipe = by_name(name)
        parts += [
            _table(recipe, f"`{name}`: everything is trained", []),
            _table(recipe, f"`{name}` with `training.train=lora`", ["training.train=lora"], [1, 8]),
            _table(recipe, f"`{name}` with `training.train=fuser`", ["training.train=fuser"], [1, 8]),
        ]
        offload = ["training.offload=optimizer"]
        parts.append(_table(recipe, f"`{name}` with `training.offload=optimizer`", offload, [1, 8]))
        offload = ["training.offload=all", "training.zero_stage=3"]
        parts.append(_table(recipe, f"`{name}` with `training.offload=all`", offload, [1, 8]))
    return "\n".join(parts)


def _table(recipe: Recipe, title: str, changes: list[str], workers: list[int] | None = None) -> str:
    heads = columns(GPU)
    cells = [heads, ["---:"] * len(heads), *rows(override(recipe, changes), GPU, workers)]
    return f"{title}:\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _shapes() -> str:
    recipe = by_name("shapes")
    need: Any = estimate_memory(read_sizes(recipe.model), recipe.training, SHAPES_LATENTS, gpu=False)
    return (
        f"`shapes` on {recipe.training.workers} CPU workers: {need.host / GIB:.1f} GiB of main memory each ({need}).\n"
    )


def main() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + tables() + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
