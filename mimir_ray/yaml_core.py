"""YAML of the core schema of version 1.2, for reading and writing alike.

PyYAML follows YAML 1.1, where 1e-4 is text, `no` is false, 1:30 is ninety and a key may be given twice. (A writer that
thinks 1e-4 is text would not quote it.)
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml


def parse(text: str) -> Any:
    """Plain data: dicts, lists, scalars.

    Raises:
        ValueError: it is none; with line and column where they are known, and the remedy.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error)
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        remedy = "" if "; " in problem else "; quote text that has special characters"
        raise ValueError(f"not valid YAML{where}: {problem}{remedy}") from None


def dump(data: Any) -> str:
    """Text that `parse` reads back to equal data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def dump_inline(value: Any) -> str:
    """A value on one line, as it stands after `field=`."""
    text = yaml.dump([value], Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=2**31)
    return text.strip()[1:-1]


def lines(text: str) -> dict[str, int]:
    """The lines on which the keys of valid YAML stand, by their dotted names."""

    def walk(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                yield prefix + key.value, key.start_mark.line + 1
                yield from walk(value, f"{prefix}{key.value}.")

    return dict(walk(yaml.compose(text, Loader=_Loader), ""))


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            mark = node.value[index][0].start_mark
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", mark)
            if key in keys[:index]:
                problem = f"{key} is given twice; leave one of them out"
                raise yaml.constructor.ConstructorError(None, None, problem, mark)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {}
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|)$", ["~", "n", ""]),
    ("bool", r"^(?:true|false)$", list("tf")),
    ("int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    ("float", r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$", list("-+.0123456789")),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
