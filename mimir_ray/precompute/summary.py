"""What a finished precompute holds, as a value and as a table to print."""

from typing import TYPE_CHECKING

from mimir_ray.config import Config
from mimir_ray.precompute.lengths import TruncatedCaptions
from mimir_ray.precompute.outcomes import PASSING
from mimir_ray.storage import Account, Manifest, render_accounts

if TYPE_CHECKING:
    from rich.console import Group


MEASURE = "round_trip_psnr_db"
"""What the manifest of `latents` calls how well the VAE gives clips back."""


class PrecomputeSummary(Config):
    """The account of a precompute, by table."""

    tables: dict[str, Manifest]
    accounts: dict[str, Account]
    clips: int
    """Clips that passed curation: the inputs."""
    truncated: TruncatedCaptions
    """Captions that are longer than the text encoder reads, of all that are encoded."""
    rows_tried: dict[str, int]
    """Rows that this run encoded or tried to, by table; what stayed or was carried over is not among them."""
    rows_encoded: dict[str, int]
    """The rows among them that are ok, by table."""
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

    @property
    def passing(self) -> dict[str, int]:
        """Number of clips that the next run tries again, by reason; a video that is away or has changed is one."""
        return {why: count for why, count in self.accounts["latents"].quarantined.items() if why.startswith(PASSING)}

    @property
    def round_trip_db(self) -> float | None:
        """PSNR of the first clips after encoding and decoding; None where none was looked at."""
        latents = self.tables.get("latents")
        return None if latents is None else latents.measured.get(MEASURE)

    @property
    def nothing(self) -> str:
        """Why there is nothing to train on, for people; empty where something is encoded or nothing was to be."""
        for name, counts in self.accounts.items():
            if counts.inputs and not counts.ok:
                reason, rows = max((counts.rejected | counts.quarantined).items(), key=lambda found: found[1])
                return (
                    f"nothing could be encoded: {counts.inputs:,} rows of {name}, none of them ok, {rows:,} because: "
                    f"{reason}. Mend that and run it again, with --retry-quarantined where it is not tried again anyway"
                )
        return ""


def render(summary: PrecomputeSummary) -> "Group":
    """The summary as a rich table, and a line on what this run did of it."""
    from rich.console import Group
    from rich.text import Text

    table = render_accounts("Precompute", {name: (counts, "encoded") for name, counts in summary.accounts.items()})
    tried = ", ".join(f"{summary.rows_encoded[name]:,} of {rows:,} {name}" for name, rows in summary.rows_tried.items())
    done = f"of what it tried this run encoded {tried}, {summary.rows_per_s:,.0f} rows/s"
    if not any(summary.rows_tried.values()):
        written = f"no row was new, and {summary.shards_written:,} of the shards were put together anew"
        done = written if summary.shards_written else "all of it was there before"
    lines = [f"{summary.seconds:.1f} s; {done}"]
    if summary.round_trip_db is not None:
        lines.append(f"the VAE gives the first clips back at {summary.round_trip_db:.1f} dB PSNR")
    if summary.truncated.captions:
        lines.append(str(summary.truncated))
    if passing := summary.passing:
        clips = sum(passing.values())
        lines.append(
            f"failed for now: {clips:,} clips, for {len(passing):,} reasons such as a video that is away or has "
            "changed; the next run tries them again"
        )
    if any(PASSING not in reason for counts in summary.accounts.values() for reason in counts.quarantined):
        lines.append("what else is quarantined stays so until --retry-quarantined tries it again")
    return Group(table, *map(Text, lines))
