"""The list of mutants fits the code and the tests as they are; whether they are killed `make mutants` says."""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.mutate import ROOT, Mutant, StaleError, apply, read_mutants, read_package

MUTANTS = read_mutants()


@pytest.fixture(scope="module")
def package() -> dict[Path, str]:
    return read_package()


@cache
def default_tests(file: Path) -> set[str]:
    """Names of the tests of a file that are not slow."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    marks = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node).startswith("pytestmark")]
    if any("mark.slow" in ast.unparse(mark) for mark in marks):
        return set()
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))
    return {node.name for node in functions if not any("mark.slow" in ast.unparse(d) for d in node.decorator_list)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_still_applies_and_its_tests_are_there(mutant: Mutant, package: dict[Path, str]) -> None:
    path, changed = apply(mutant, package)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(package[path])), "it changes nothing"
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file(), f"{file} is not there"
        found = default_tests(ROOT / file)
        assert name.partition("[")[0] in found if name else found, f"{test} is no test of the default suite"


def test_every_mutant_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("gone", "", "occurs nowhere"),
        ("same", "other", r"occurs a\.py \(1\), b\.py \(1\)"),
        ("twice", "", r"occurs a\.py \(2\)"),
        ("x = 1", "x = (", "a.py does not compile with it"),
    ],
)
def test_a_mutant_that_does_not_apply_is_told(old: str, new: str, says: str) -> None:
    package = {Path("a.py"): "x = 1  # same, twice, twice", Path("b.py"): "# same"}
    with pytest.raises(StaleError, match=says):
        apply(Mutant("one", "It holds.", old, new, ("tests",)), package)
