"""What a finished precompute holds, as a value and as a table to print."""

from typing import TYPE_CHECKING

from mimir_ray.config import Config
from mimir_ray.storage import Account, Manifest, render_accounts

if TYPE_CHECKING:
    from rich.console import Group


class PrecomputeSummary(Config):
    """The account of a precompute, by table."""

    tables: dict[str, Manifest]
    accounts: dict[str, Account]
    clips: int
    """Clips that passed curation: the inputs."""
    rows_encoded: dict[str, int]
    """Rows that this run encoded or tried to, by table; what stayed or was carried over is not among them."""
    shards_written: int
    """Shards that this run committed in some table."""
    busy_s: dict[str, float]
    """Time that this run's actors spent encoding, by table."""
    seconds: float
    """Wall time of this run."""

    @property
    def rows_per_s(self) -> float:
        """Rows of all tables that this run encoded, per second of its wall time."""
        return sum(self.rows_encoded.values()) / self.seconds if self.seconds else 0.0


def render(summary: PrecomputeSummary) -> "Group":
    """The summary as a rich table, and a line on what this run did of it."""
    from rich.console import Group
    from rich.text import Text

    table = render_accounts("Precompute", {name: (counts, "encoded") for name, counts in summary.accounts.items()})
    encoded = ", ".join(f"{count:,} {name}" for name, count in summary.rows_encoded.items())
    done = f"this run encoded {encoded}, {summary.rows_per_s:,.0f} rows/s"
    if not any(summary.rows_encoded.values()):
        written = f"no row was new, and {summary.shards_written:,} of the shards were put together anew"
        done = written if summary.shards_written else "all of it was there before"
    return Group(table, Text(f"{summary.seconds:.1f} s; {done}"))
