"""What a search for videos came across and did not take, in numbers and examples: nothing is left out in silence."""

import logging
from collections import Counter, defaultdict
from typing import Any

from mimir_ray.storage import join, write_json

logger = logging.getLogger(__name__)

SOURCES_FILE = "sources.json"
MAX_PATHS = 1000
"""The paths that are kept of each kind."""
_SHOWN = 3
_KINDS_SHOWN = 12


class Notes:
    """Counts by kind and by group, such as files passed over by suffix, and paths of the first ones."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.paths: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, group: str, path: str) -> None:
        """Count one, of a kind that `_LINES` has a sentence for."""
        self.counts[kind][group] += 1
        if len(self.paths[kind]) < MAX_PATHS:
            self.paths[kind].append(path)

    def lines(self) -> list[str]:
        """A sentence a kind, for people; none where everything was taken."""
        return [_sentence(kind, self.counts[kind], self.paths[kind]) for kind in _LINES if self.counts[kind]]

    def write(self, out: str) -> None:
        """Leave all counts, and paths of each kind up to a limit, as `sources.json` under the data root `out`."""
        found: dict[str, Any] = {}
        for kind in _LINES:
            counts = dict(self.counts[kind].most_common())
            found[kind] = {"count": sum(counts.values()), "by": counts, "paths": self.paths[kind]}
        write_json(join(out, SOURCES_FILE), found)

    def log(self) -> None:
        """What was passed over as it should be, and a warning where something does not fit."""
        for kind in _LINES:
            if self.counts[kind]:
                level = logging.WARNING if kind in _WRONG else logging.INFO
                logger.log(level, "%s", _sentence(kind, self.counts[kind], self.paths[kind]))


_LINES = {
    "passed_over": "passed over, no videos by name: {groups}; as {examples}",
    "hidden": "passed over, hidden files and folders: {count:,}; as {examples}",
    "output": "passed over, files of the output folder: {count:,}; as {examples}",
    "unmatched_lines": "lines that name no video that is there, or several by another case of letters: {groups}; their "
    "captions are not used; as {examples}",
    "without_line": "videos without a line in the captions files above them: {groups}; as {examples}",
    "not_there": "videos of lists that are not there: {count:,}; paths are taken from the list's folder; as {examples}",
}
"""Sentences; `groups` are counts by group, `examples` the first paths."""
_WRONG = {"unmatched_lines", "without_line", "not_there"}


def _sentence(kind: str, counts: Counter[str], paths: list[str]) -> str:
    groups = [f"{count:,} {name}" for name, count in counts.most_common(_KINDS_SHOWN)]
    if others := counts.total() - sum(count for _, count in counts.most_common(_KINDS_SHOWN)):
        groups.append(f"{others:,} others")
    examples = ", ".join(paths[:_SHOWN])
    return _LINES[kind].format(count=counts.total(), groups=", ".join(groups), examples=examples)
