"""The commands that documentation shows, and what the command line makes of them without running anything."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from mimir_ray.cli import app
from mimir_ray.cli.options import configure, load_recipe
from mimir_ray.shapes.pretrain.config import PretrainConfig
from tests.cli.command import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "cli.md"),  # that one is written by the CLI
    ROOT / "mimir_ray" / "shapes" / "weights" / "README.md",
    *sorted((ROOT / "jobs").glob("*.py")),
    *sorted((ROOT / "cluster").rglob("*.yaml")),
]
COMMAND = re.compile(r"(?:\w+=\S+ )*(?:mimir|python -m jobs\.(?P<job>\w+)) +(?P<words>\S.*)")
SHELL = {">", "|", "&&", ";", "&"}


def shown_in(page: Path) -> list[str]:
    """Every `mimir ...` and `python -m jobs...` of fenced and indented blocks and of comments, each as one line."""
    return list(_commands(page.read_text()))


def examples() -> dict[str, list[str]]:
    """The examples below `--help`, by verb."""
    return {name: list(_commands(command.epilog or "")) for name, command in verbs().items()}


def verbs() -> dict[str, Any]:
    """Every command of the command line, by its words."""
    found: dict[str, Any] = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inside = getattr(command, "commands", None)
        found |= {f"{name} {word}": inner for word, inner in inside.items()} if inside else {name: command}
    return found


def options_of(command: Any) -> set[str]:
    """What of a command begins with a dash."""
    named = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {name for name in named if name.startswith("-")} | {"--help"}


def words_of(line: str) -> list[str]:
    """The words after `mimir` of a command, without what is the shell's."""
    found = COMMAND.match(line)
    assert found, line
    words = shlex.split(found["words"], comments=True)
    end = next((place for place, word in enumerate(words) if word in SHELL), len(words))
    return [*([found["job"]] if found["job"] else []), *words[:end]]


def check(words: list[str]) -> None:
    """Parse a command as the command line does, and make its recipe; raises what either refuses."""
    name = next((" ".join(words[:count]) for count in (2, 1) if " ".join(words[:count]) in verbs()), None)
    if name is None:
        assert words == ["--version"], f"there is no verb {words[0]}"
        return
    command = verbs()[name]
    with command.make_context(f"mimir {name}", words[len(name.split()) :]) as parsed:
        given = parsed.params
    if name == "submit":
        check([given["verb"], *(given["arguments"] or [])])
    elif name == "shapes pretrain":
        configure(PretrainConfig(), given["assignments"], None)
    elif "assignments" in given and ":" not in (given.get("recipe") or ""):
        load_recipe(given.get("recipe") or "shapes", given["assignments"])  # files of a reader's own are not there


def _commands(text: str) -> Iterator[str]:
    fenced = False
    for line in re.sub(r" *\\\n+[ #]*", " ", text).splitlines():
        fenced = fenced != line.startswith("```")
        block = fenced or line.startswith(("    ", "#   ", "  mimir"))
        if block and COMMAND.match(line.lstrip("# $")):
            yield line.lstrip("# $").strip()
