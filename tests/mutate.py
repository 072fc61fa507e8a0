"""Would the default suite notice? Small faults are put into copies of the tree, one at a time, and its tests run there.

make mutants                                # every one of mutants.toml: some seconds each, and minutes for a survivor
make mutants ARGS="eta zero_conv"           # those whose names hold one of these words

Of each mutant the tests that it names come first, and the whole default suite only where those pass. A mutant that
nothing kills, or whose text is not in the code any more, makes the command fail.
"""

import argparse
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
MUTANTS = Path(__file__).with_name("mutants.toml")
BESIDE = ("-n", "logical", "--maxprocesses", "4", "--no-loadscope-reorder")
"""How `make test` runs many tests."""
PASSED, FAILED = 0, 1
"""Exit codes of pytest; the others mean that it could not run the tests."""


@dataclass(frozen=True)
class Mutant:
    """A slip that somebody could make."""

    name: str
    breaks: str
    """The promise that does not hold with it."""
    old: str
    """Text that occurs once in the package, wherever that is."""
    new: str
    tests: tuple[str, ...]
    """Of the default suite, as pytest names them: those that are tried first."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: `killed` by a test, `survived`, or `broken` with a reason why it says nothing."""

    outcome: str
    told: str = ""


class StaleError(Exception):
    """A mutant that does not fit the code; the message says why."""


def read_mutants() -> list[Mutant]:
    """The list, in its order."""
    rows = tomllib.loads(MUTANTS.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**row | {"tests": tuple(row["tests"])}) for row in rows]


def read_package(root: Path = ROOT) -> dict[Path, str]:
    """The source files of the package."""
    return {path: path.read_text(encoding="utf-8") for path in sorted((root / "mimir_ray").rglob("*.py"))}


def apply(mutant: Mutant, package: dict[Path, str]) -> tuple[Path, str]:
    """The file that it changes and what is in it then. Raises StaleError."""
    found = {path: source.count(mutant.old) for path, source in package.items() if mutant.old in source}
    if sum(found.values()) != 1:
        where = ", ".join(f"{path.name} ({count})" for path, count in found.items()) or "nowhere"
        raise StaleError(f"its old text must occur once in mimir_ray, and occurs {where}: take the lines around it too")
    (path,) = found
    changed = package[path].replace(mutant.old, mutant.new)
    try:
        compile(changed, path, "exec")
    except SyntaxError as error:
        raise StaleError(f"{path.name} does not compile with it: {error}") from None
    return path, changed


def judge(mutant: Mutant) -> Verdict:
    """Run the tests on a copy with this change."""
    with _copy() as tree:
        try:
            path, changed = apply(mutant, read_package(tree))
        except StaleError as error:
            return Verdict("broken", str(error))
        path.write_text(changed, encoding="utf-8")
        for tests in (mutant.tests, BESIDE):
            code, told = _pytest(tree, tests)
            # The module as it was compiled here: without it another copy of the package was imported, or none.
            if not Path(importlib.util.cache_from_source(str(path))).exists():
                return Verdict("broken", f"the tests do not import {path.relative_to(tree)}")
            if code == FAILED:
                return Verdict("killed", told if tests is mutant.tests else f"{told} (which it does not name)")
            if code != PASSED:
                return Verdict("broken", f"pytest ended with {code}: {told}")
    return Verdict("survived")


@contextmanager
def _copy() -> Iterator[Path]:
    """A copy of what git tracks, or would, without what was compiled."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="mimir-mutant-") as folder:
        tree = Path(folder).resolve()
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, tree / name)
        yield tree


def _pytest(tree: Path, arguments: Iterable[str]) -> tuple[int, str]:
    """The exit code of the default suite, or of those tests of it that are named, and the first one that failed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command, cwd=tree, env=environment | {"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if failed := [line for line in lines if line.startswith("FAILED tests/")]:
        return FAILED, failed[0].removeprefix("FAILED ")  # xdist calls it an interruption
    errors = [line for line in lines if line.startswith("ERROR tests/")]
    return done.returncode, (errors or lines[-1:] or [""])[0]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="in the names of the mutants that are tried; all without any")
    words = parser.parse_args(arguments).words
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    mutants = [mutant for mutant in read_mutants() if not words or any(word in mutant.name for word in words)]
    if not mutants:
        parser.error(f"no mutant of {MUTANTS.name} has one of these in its name: {', '.join(words)}")

    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    logger.info("%d mutants; first the tests that they name, without any", len(mutants))
    with _copy() as tree:
        code, told = _pytest(tree, (*BESIDE, *tests))
    if code != PASSED:
        logger.error("these tests must pass before they can tell anything, and pytest ended with %d: %s", code, told)
        return 1

    verdicts: dict[str, Verdict] = {}
    width, began = max(len(mutant.name) for mutant in mutants), time.monotonic()
    for count, mutant in enumerate(mutants, 1):
        verdict = verdicts[mutant.name] = judge(mutant)
        left_s = (time.monotonic() - began) / count * (len(mutants) - count)
        place = f"{count:{len(str(len(mutants)))}}/{len(mutants)}"
        said = verdict.told or f"that {mutant.breaks[0].lower()}{mutant.breaks[1:]}"
        logger.info("%s  %-*s  %-8s  %.0f min left  %s", place, width, mutant.name, verdict.outcome, left_s / 60, said)

    unguarded = [name for name, verdict in verdicts.items() if verdict.outcome != "killed"]
    logger.info("%d of %d killed", len(mutants) - len(unguarded), len(mutants))
    if unguarded:
        logger.error("not guarded: %s", ", ".join(unguarded))
    return int(bool(unguarded))


if __name__ == "__main__":
    sys.exit(main())
