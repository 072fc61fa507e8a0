"""The fields of a configuration: what each is called, takes, is by default, and what its docstring says."""

import html
import inspect
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mimir_ray import yaml_core
from mimir_ray.config import Config, model_in

REQUIRED = PydanticUndefined
"""The default of a field that has none: every recipe says it."""
LONGEST = 80
_INTRODUCTION = """\
# Configuration

<!-- Written by `mimir config fields --markdown`: change the docstrings of the fields instead. -->

A recipe is a whole run, and every field of it can be changed:

```bash
mimir config show --recipe mimir_5b                           # what a run would be, and where each value is from
mimir config show --recipe mimir_5b --format yaml > run.yaml  # as a file; leave of it what you change
mimir config fields training.validation                       # the page below, in the terminal
mimir train --data D --out O --recipe mimir_5b --config run.yaml --set training.seed=1
```

Later ones win: the recipe, then `--config` files in their order, then `--set`. A file is YAML or TOML and need not be
whole. Its fields are nested or dotted (`training.steps: 100`), lists are given whole, and a section that is `off`
becomes one by what the file says of it. `--set` takes YAML (`--set 'training.betas=[0.9, 0.99]'`). Only the outcome is
judged, so that fields which depend on each other may change together. TOML has no word for null, and leaves out what is
null in the recipe too.

`--recipe module:function` and `--recipe path/file.py:function` call a function of yours, which returns a
`mimir_ray.recipes.Recipe`; modules are looked for where you are, too:

```python
from mimir_ray.config import override
from mimir_ray.recipes import Recipe, mimir_5b


def gentle() -> Recipe:
    return override(mimir_5b(), ["name=gentle", "training.learning_rate=5e-6"])
```

What `mimir submit` sends to a cluster is the outcome, as `--set`: neither the file nor the module is needed there.

Of every field the type, the limits, the default and the meaning; `[]` stands for each item of a list."""
_LIMITS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >=", "max_length": "length <="}
"""Attributes of what pydantic keeps of `Field(...)`, and how they read."""


@dataclass(frozen=True)
class Described:
    """A field of a configuration, or a section of fields."""

    name: str
    """Dotted, as ``--set`` takes it; ``[]`` stands for an index into a list."""
    kind: str
    """Its type in Python's words, ``section`` where it only has fields of its own."""
    default: Any
    """Plain data, or ``REQUIRED``."""
    limits: str
    meaning: str
    """Its docstring, and of a section its class's."""

    @property
    def default_words(self) -> str:
        """The default as a person reads it."""
        if self.kind == "section":
            return ""
        return "required" if self.default is REQUIRED else f"default {short(self.default)}"


def short(value: Any) -> str:
    """A value as YAML on one line; of a long one its beginning."""
    text = yaml_core.dump_inline(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def describe(owner: type[BaseModel], defaults: BaseModel | None = None, prefix: str = "") -> Iterator[Described]:
    """Every field of ``owner``, each section before the fields in it.

    Args:
        defaults: an instance whose values are the defaults; those of the class otherwise.
    """
    for field, info in owner.model_fields.items():
        default = info.get_default(call_default_factory=True) if defaults is None else getattr(defaults, field)
        inner = model_in(info.annotation)
        plain = (
            REQUIRED
            if default is REQUIRED
            else owner.model_construct(**{field: default}).model_dump(mode="json", include={field})[field]
        )
        about = (info.description, inspect.getdoc(inner) if inner else None)
        meaning = " ".join(" ".join(filter(None, about)).replace("``", "`").split())
        kind = "section" if inner is info.annotation else _kind(info.annotation)
        yield Described(prefix + field, kind, plain, ", ".join(_limits(info)), meaning)
        if inner:
            below = default if isinstance(default, inner) else None
            yield from describe(inner, below, f"{prefix}{field}{'[]' if get_origin(info.annotation) is tuple else ''}.")


def page(config: type[Config]) -> str:
    """The page of all fields in Markdown: a heading for each section, a table for what it holds."""
    fields = list(describe(config))
    inside: dict[str, list[Described]] = {}
    for field in fields:
        inside.setdefault(field.name.rpartition(".")[0].removesuffix("[]"), [])
        if field.kind != "section":
            inside[field.name.rpartition(".")[0].removesuffix("[]")].append(field)
    parts = [_INTRODUCTION, _table(inside[""])]
    for field in fields:
        if field.name in inside:
            parts += [f"{'#' * (2 + field.name.count('.'))} {field.name}", field.meaning, _table(inside[field.name])]
    return "\n\n".join(filter(None, parts)) + "\n"


def _table(fields: list[Described]) -> str:
    if not fields:
        return ""
    heads = ("field", "type", "limits", "default", "meaning")
    return "\n".join(_row(cells) for cells in (heads, ["---"] * len(heads), *map(_cells, fields)))


def _cells(field: Described) -> list[str]:
    code = (field.name.rpartition(".")[2], field.kind, field.limits, field.default_words.removeprefix("default "))
    return [*map(_code, code), field.meaning]


def _code(text: str) -> str:
    """Code in a cell of a table; an upright line would end the cell for some readers of Markdown, escaped or not."""
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`" if text else ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _kind(annotation: Any) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " | ".join(_kind(part) for part in inside)
    if origin is Literal:
        return " | ".join(map(repr, inside))
    if origin is tuple:
        return f"list[{', '.join(_kind(part) for part in inside if part is not ...)}]"
    if origin is dict:
        return f"dict[{', '.join(map(_kind, inside))}]"
    if annotation is type(None):
        return "null"
    return "section" if model_in(annotation) else str(getattr(annotation, "__name__", annotation))


def _limits(info: FieldInfo) -> Iterator[str]:
    for limit in info.metadata:
        for attribute, sign in _LIMITS.items():
            if (bound := getattr(limit, attribute, None)) is not None:
                yield f"{sign} {_number(bound)}"


def _number(bound: float) -> str:
    power = int(bound).bit_length() - 1
    return f"2**{power}" if power > 16 and bound == 2**power else str(bound)
