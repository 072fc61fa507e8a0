"""What README, docs and `--help` tell a reader to type is what the command line takes."""

import re
from pathlib import Path

import pytest
from typer import BadParameter

from mimir_ray.cli.config_fields import describe
from mimir_ray.config import UserError
from mimir_ray.recipes import Recipe
from tests.cli.command import ROOT
from tests.cli.documented import PAGES, check, examples, options_of, shown_in, verbs, words_of

USAGE = next(kind for kind in BadParameter.__mro__ if kind.__name__ == "UsageError")
SPAN = re.compile(r"`([^`\n]+)`")
FIELDS = {field.name for field in describe(Recipe)}
GONE = {"curation.split.mode", "curation.split.crf", "curation.limits.probe_timeout_s"}
"""Fields that a page tells to leave out of recipes of before."""
SECTIONS = "|".join(sorted({name.partition(".")[0] for name in FIELDS} - {"name"}))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_parses(page: Path) -> None:
    for line in shown_in(page):
        try:
            check(words_of(line))
        except Exception as error:
            pytest.fail(f"{line}\n{type(error).__name__}: {getattr(error, 'message', error)}")


@pytest.mark.parametrize("verb", verbs())
def test_every_example_of_help_parses(verb: str) -> None:
    shown = examples()[verb]
    assert shown
    for line in shown:
        check(words_of(line))


def test_commands_are_found_where_they_are_shown() -> None:
    found = {page.name: len(shown_in(page)) for page in PAGES}
    assert found["README.md"] >= 5
    assert found["tutorial.md"] >= 15
    assert found["clusters.md"] >= 4
    assert found["training.md"] >= 5
    assert found["memory.md"] >= 2
    assert found["precompute.md"] >= 1
    assert found["train.py"] == 3
    assert found["aws.yaml"] == 1
    assert sum(map(len, examples().values())) > 30


@pytest.mark.parametrize(
    "line",
    [
        "mimir trane --data D --out O",
        "mimir train --data D --out O --stepps 3",
        "mimir train --data D",
        "mimir train --data D --out O --recipe mimir_7b",
        "mimir train --data D --out O --set training.lr=1",
        "mimir train --data D --out O --set training.steps=0",
        "mimir shapes paint",
        "mimir shapes pretrain --out O --set vae.full_stepps=1",
        "mimir submit train --address http://head:8265 -- --data D",
        "RAY_AUTH_MODE=token mimir submit fly -- --data D",
        "python -m jobs.train --data D --out O --no-such",
        "mimir export RUN --step many   # a comment",
        "mimir serve --port",
    ],
)
def test_a_false_command_is_seen(line: str) -> None:
    with pytest.raises((USAGE, UserError, AssertionError)):
        check(words_of(line))


def spans(page: Path) -> list[str]:
    """Code in the running text of a page."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return SPAN.findall(prose)


MARKDOWN = [page for page in PAGES if page.suffix == ".md"]


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.name)
def test_every_option_that_a_page_names_is_one(page: Path) -> None:
    of_benchmarks = {
        option
        for file in (ROOT / "benchmarks").glob("*.py")
        for option in re.findall(r'"(--[a-z-]+)"', file.read_text())
    }
    anyones = of_benchmarks.union(*map(options_of, verbs().values()))
    for span in spans(page):
        words = span.split()
        if words[0] == "mimir" and len(words) > 1:
            name = next((name for name in verbs() if words[1:][: len(name.split())] == name.split()), words[1])
            known = options_of(verbs()[name]) if name in verbs() else set()
            assert name in verbs() or name in {"shapes", "config"}, f"{span}: there is no such verb"
            cut = words.index("--") if "--" in words else len(words)
            unknown = [word for word in words[:cut] if word.startswith("--") and word.partition("=")[0] not in known]
            assert not unknown, f"{span}: {name} has no {unknown}"
        elif words[0].startswith("--"):
            assert words[0].partition("=")[0] in anyones, f"nothing takes {span}"


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.name)
def test_every_field_that_a_page_names_is_one(page: Path) -> None:
    for span in spans(page):
        for name in re.findall(rf"(?:^|--set |--set ')((?:{SECTIONS})\.[a-z][a-z0-9_.]*)", span):
            known = name.rstrip(".") in FIELDS or name in GONE or name.endswith(".json")
            assert known, f"{span}: there is no field {name}"
