"""docs/cli.md, the reference of the command line, from the command line itself.

python -m tests.cli.command_reference        # writes the page
"""

import html
import re

from typer import Context
from typer.cli import get_docs_for_click
from typer.main import get_command

from mimir_ray.cli import app
from tests.cli.command import ROOT

PAGE = ROOT / "docs" / "cli.md"
HEAD = """\
# Command line

<!-- Written by `python -m tests.cli.command_reference`: change the verbs' own help instead. -->
"""
COMMANDS = re.compile(r"\*\*Commands\*\*:\n\n(?:\* .*\n)+\n")
"""A list of what follows, each cut to a few words."""
EXAMPLES = re.compile(r"\[bold\]Examples\[/bold\]\n\n((?:  .*\n+)+)")


def page() -> str:
    """Every verb with its arguments, options and examples, as `--help` shows them."""
    command = get_command(app)
    told = get_docs_for_click(obj=command, ctx=Context(command), name="mimir")
    told = html.unescape(told).replace("# `mimir`\n", HEAD, 1)
    told = COMMANDS.sub("", told)
    told = EXAMPLES.sub(lambda found: f"**Examples**:\n\n```bash\n{_lines(found[1])}\n```\n\n", told)
    return re.sub(r"\[/?bold\]", "**", told).rstrip() + "\n"


def _lines(shown: str) -> str:
    return "\n".join(line[2:] for line in shown.splitlines() if line)


if __name__ == "__main__":
    PAGE.write_text(page())
