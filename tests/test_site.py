"""The documentation as a site: whole, without a broken link, without a network, and true to the code."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from mimir_ray.cli.options import load_recipe
from tests.cli import command_reference
from tests.cli.command import ROOT

DOCS = ROOT / "docs"
FETCHED = {"src", "srcset", "poster", "data", "action", "formaction"}
"""Attributes whose address a browser fetches, or sends to, by itself."""
LINKED = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}
FOREIGN = re.compile(r"(?:https?:)?//")
TOLD = re.compile(r"^### `(.+)`$", re.MULTILINE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly; whatever asks for an address elsewhere finds nobody."""
    out = tmp_path_factory.mktemp("site")
    nobody = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    build = subprocess.run(  # with --quiet, --strict would not see the warnings either
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, **nobody, "NO_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    return out


class Page(HTMLParser):
    """What a page of HTML fetches, links to and can be linked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: set[str] = set()
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        self.classes.update(given.get("class", "").split())
        self.fetched += [value for name, value in given.items() if name in FETCHED]
        if tag == "link" and LINKED & set(given.get("rel", "").split()):
            self.fetched.append(given.get("href", ""))
        self.fetched += re.findall(r"url\(([^)]*)\)", given.get("style", ""))


def pages(site: Path) -> dict[str, Page]:
    return {str(file.relative_to(site)): Page(file.read_text()) for file in site.rglob("*.html")}


def foreign(addresses: list[str]) -> list[str]:
    return [address for address in addresses if FOREIGN.match(address.strip("'\" "))]


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    found = pages(site)
    assert len(found) > 15
    for name, page in found.items():
        assert not foreign(page.fetched), name
        assert "mermaid" not in page.classes, f"{name}: the theme would fetch the script of diagrams from a CDN"
    for sheet in site.rglob("*.css"):
        fetched = re.findall(r"url\(([^)]*)\)|@import\s+([^;]+);", sheet.read_text())
        assert not foreign([address for pair in fetched for address in pair]), sheet


def test_what_is_fetched_from_elsewhere_is_seen() -> None:
    for tag in (
        '<script src="https://cdn.example/x.js">',
        '<link rel="stylesheet" href="//fonts.example/x.css">',
        '<link href="https://fonts.example" rel="preconnect">',
        '<img srcset="http://example/x.png 2x">',
        '<div style="background: url(https://example/x.png)">',
    ):
        assert foreign(Page(tag).fetched), tag
    assert not foreign(
        Page('<a href="https://arxiv.org"><link rel="canonical" href="https://x/"><img src="a.png">').fetched
    )


def test_every_page_is_in_the_navigation() -> None:
    def named(entry: Any) -> Iterator[str]:
        for inside in entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ():
            yield from named(inside)
        if isinstance(entry, str):
            yield entry

    shown = list(named(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(shown) == sorted(page.name for page in DOCS.glob("*.md"))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_pages_beside_the_site_lead_somewhere(name: str, site: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text()):
        path, _, anchor = link.partition("#")
        if FOREIGN.match(path):
            continue
        assert (ROOT / path).exists(), f"{name}: {link}"
        if anchor:
            built = site / Path(path).stem / "index.html"
            assert anchor in Page(built.read_text()).ids, f"{name}: {link}"


def test_the_reference_of_the_command_line_is_what_the_command_line_says() -> None:
    assert command_reference.PAGE.read_text() == command_reference.page(), "run python -m tests.cli.command_reference"


def test_the_references_tell_of_what_they_are_for(site: Path) -> None:
    python = (site / "api" / "index.html").read_text()
    for name in ("mimir_ray.training.train", "mimir_ray.model.pipeline.MimirPipeline", "mimir_ray.storage.Table"):
        assert f'id="{name}"' in python
    command_line = (site / "cli" / "index.html").read_text()
    assert "mimir curate report" in command_line
    assert "[bold]" not in command_line


def messages() -> set[str]:
    """Every text of the code, with … for each value that is put into it."""
    found = set()
    for file in (ROOT / "mimir_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            if any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts))
    return found


def test_every_message_of_the_troubleshooting_is_one_of_the_codes() -> None:
    told, said = TOLD.findall((DOCS / "troubleshooting.md").read_text()), messages()
    assert len(told) >= 20
    for message in told:
        assert any(message.strip("?") in text for text in said), message


def test_the_settings_that_a_page_shows_as_a_file_make_a_recipe(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (DOCS / "tutorial.md").read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        (tmp_path / "run.yaml").write_text(block)
        assert load_recipe("mimir_2b", None, [str(tmp_path / "run.yaml")]).training.workers == 1
