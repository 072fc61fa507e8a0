"""Recipes of a user: functions that return one, named `module:function` or `path/file.py:function`."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mimir_ray.config import UserError, from_dict

if TYPE_CHECKING:
    from mimir_ray.recipes import Recipe


def call_recipe(name: str) -> "Recipe":
    """The recipe that the function `module:function` returns, as plain data: nothing of the module is needed later.

    Modules are looked for in the working directory too.

    Raises:
        UserError: there is no such module, file or function, it raises, or what it returns is no recipe.
    """
    from mimir_ray.recipes import Recipe

    where, _, function = name.rpartition(":")
    module = _guarded(f"--recipe {name}: importing {where}", lambda: _import(name, where))
    if not function or not callable(make := getattr(module, function, None)):
        raise UserError(f"--recipe {name}: {where} has no function {function!r}; {_functions(module, function)}")
    made = _guarded(f"--recipe {name}: {function}()", make)
    if not isinstance(made, Recipe):
        raise UserError(
            f"--recipe {name}: {function}() returned {type(made).__name__}, and it must return a "
            "mimir_ray.recipes.Recipe, such as override(mimir_5b(), ['training.steps=100'])"
        )
    return from_dict(Recipe, made.model_dump(mode="json"), f"--recipe {name}")


def _import(name: str, where: str) -> ModuleType:
    if where.endswith(".py") or "/" in where:
        path = Path(where).expanduser()
        if not path.is_file():
            raise UserError(f"--recipe {name}: there is no file {where!r}; write path/file.py:function")
        spec: Any = importlib.util.spec_from_file_location(path.stem, path.resolve())
        if spec is None:
            raise UserError(f"--recipe {name}: {where!r} is not a Python file; write path/file.py:function")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    missing = UserError(
        f"--recipe {name}: there is no module {where!r} here or among what is installed; write module:function, or "
        "path/file.py:function"
    )
    if not all(part.isidentifier() for part in where.split(".")):
        raise missing
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if f"{where}.".startswith(f"{error.name}."):
            raise missing from None
        raise  # of something that the module imports


def _guarded(doing: str, work: Callable[[], Any]) -> Any:
    """What `work` returns; what it raises as one line."""
    try:
        return work()
    except UserError as error:
        raise UserError(str(error) if str(error).startswith("--recipe") else f"{doing} raises: {error}") from error
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
        raise UserError(f"{doing} makes no {error.title}: {told}") from error
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join(str(error).split()) or "nothing said"
        raise UserError(f"{doing} raises {type(error).__name__}: {said} ({frame.filename}:{frame.lineno})") from error


def _functions(module: ModuleType, near: str) -> str:
    """What of a module may have been meant."""
    own = [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    if close := get_close_matches(near, own, n=3):
        return f"did you mean {' or '.join(close)}?"
    return f"its functions are {', '.join(own)}" if own else "it defines no functions"
