"""`--recipe module:function`: a recipe of one's own, as data from then on."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimir_ray.cli.options import load_recipe
from mimir_ray.config import override
from mimir_ray.recipes import Recipe, by_name
from tests.cli.command import mimir, run_python

MODULE = """
import sys
from mimir_ray.config import override
from mimir_ray.recipes import Recipe, mimir_5b
from mimir_ray.training.config import TrainingConfig

class Own(Recipe):
    pass

def gentle() -> Recipe:
    return override(mimir_5b(), ["name=gentle", "training.learning_rate=5e-6"])

def subclass():
    return Own(**dict(gentle()))

def nothing(): ...
def needs(steps): ...
def raises(): raise ValueError("no\\nway")
def leaves(): sys.exit(3)
def unknown(): return override(mimir_5b(), ["training.stepps=1"])
def invalid(): return TrainingConfig(steps=0, batch_size=1, learning_rate=1.0, stepps=1)
limit = 5
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with modules in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_recipes.py").write_text(MODULE)
    (tmp_path / "own_broken.py").write_text("x = 1\nimport nowhere_at_all\n")
    (tmp_path / "own_syntax.py").write_text("def f(:\n")
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("")
    (tmp_path / "own_package" / "recipes.py").write_text(MODULE)
    (tmp_path / "text.txt").write_text("")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


@pytest.mark.parametrize("where", ["own_recipes", "own_package.recipes", "own_recipes.py", "./own_package/recipes.py"])
def test_a_function_of_a_user_is_a_recipe(where: str, here: Path) -> None:
    wanted = override(by_name("mimir_5b"), ["name=gentle", "training.learning_rate=5e-6", "training.steps=900"])
    assert load_recipe(f"{where}:gentle", ["training.steps=900"]) == wanted


def test_what_it_returns_is_data_that_needs_no_module(here: Path) -> None:
    recipe = load_recipe("own_recipes:subclass", None)
    assert type(recipe) is Recipe
    assert recipe == load_recipe("own_recipes:gentle", None)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere:f", ["there is no module 'nowhere' here or among what is installed", "path/file.py:function"]),
        ("own_recipes.inner:f", ["there is no module 'own_recipes.inner'"]),
        (":f", ["there is no module ''"]),
        (".:f", ["there is no module '.'"]),
        ("../x y:f", ["there is no file '../x y'"]),
        ("nowhere.py:f", ["there is no file 'nowhere.py'; write path/file.py:function"]),
        ("./text.txt:f", ["'./text.txt' is not a Python file"]),
        ("own_recipes:", ["own_recipes has no function ''; its functions are Own, gentle, subclass"]),
        ("own_recipes:gentel", ["own_recipes has no function 'gentel'; did you mean gentle?"]),
        ("own_recipes:limit", ["own_recipes has no function 'limit'"]),
        ("own_package:gentle", ["own_package has no function 'gentle'; it defines no functions"]),
        ("own_recipes:nothing", ["nothing() returned NoneType, and it must return a mimir_ray.recipes.Recipe"]),
        ("own_recipes:needs", ["needs() raises TypeError", "'steps'"]),
        ("own_recipes:raises", ["raises() raises ValueError: no way (", "own_recipes.py:18)"]),
        ("own_recipes:leaves", ["leaves() raises SystemExit: 3"]),
        ("own_recipes:unknown", ["unknown() raises: there is no field training.stepps; did you mean steps"]),
        ("own_recipes:invalid", ["invalid() makes no TrainingConfig: steps: Input should be greater than 0; stepps"]),
        ("own_broken:f", ["importing own_broken raises ModuleNotFoundError: No module named 'nowhere_at_all' ("]),
        ("own_broken:f", ["own_broken.py:2)"]),
        ("own_broken.py:f", ["importing own_broken.py raises ModuleNotFoundError"]),
        ("own_syntax:f", ["importing own_syntax raises SyntaxError"]),
    ],
)
def test_a_refusal_is_one_line(name: str, told: list[str], here: Path) -> None:
    result = mimir("config", "show", "--recipe", name)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"mimir: --recipe {name}: ")
    for words in told:
        assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_unknown_name_is_not_taken_for_a_module() -> None:
    assert "choose one of shapes, mimir_2b, mimir_5b" in mimir("config", "show", "--recipe", "nowhere").stderr


def test_the_installed_command_looks_where_it_is_called(here: Path) -> None:
    code = f"""
import os, sys
os.chdir({str(here)!r})
sys.path = [entry for entry in sys.path if entry]
from mimir_ray.cli import main
main(["config", "show", "--recipe", "own_recipes:gentle"])
"""
    run = run_python("-c", code)
    assert run.returncode == 0, run.stderr
    assert "gentle" in run.stdout.splitlines()[0]
