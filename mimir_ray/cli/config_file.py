"""Configuration as a file, YAML or TOML: read as changes of a recipe, each with its line, and written."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mimir_ray import yaml_core
from mimir_ray.config import Change, Config, UserError

YAML, TOML = (".yaml", ".yml"), (".toml",)


def read_changes(path: str) -> list[Change]:
    """What a file says: a change for each of its fields, in order.

    Raises:
        UserError: it cannot be read, or `parse_changes` refuses it.
    """
    if Path(path).suffix.lower() not in YAML + TOML:
        raise UserError(f"--config {path!r} is neither YAML nor TOML; name a file that ends in .yaml, .yml or .toml")
    try:
        text = Path(path).expanduser().read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--config {path!r} is not UTF-8 text ({error.reason} at byte {error.start}); save it so"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read --config {path!r} ({reason}); name a YAML or TOML file on this machine") from None
    return parse_changes(text, path)


def parse_changes(text: str, path: str) -> list[Change]:
    """What the text of a file says; the end of `path` tells its kind. Names of fields may be nested or dotted.

    Raises:
        UserError: it is not of its kind, holds no fields, or says a field twice.
    """
    is_toml = Path(path).suffix.lower() in TOML
    try:
        document, lines = _parse_toml(text) if is_toml else (yaml_core.parse(text), yaml_core.lines(text))
        if not isinstance(document, dict | None):
            raise UserError(f"{path} holds no fields; write them as a mapping, such as training: {{steps: 100}}")
        leaves = list(_leaves(document or {}))
    except ValueError as error:
        raise UserError(f"{path} is {error}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deep, or holds itself by an anchor; write its values out") from None
    changes = [Change(name, value, path, _line(lines, name)) for name, value in leaves]
    seen: set[str] = set()
    for made in changes:
        if made.name in seen and made.value != {}:
            raise UserError(f"{made.origin}{made.name} is given twice; leave one of them out")
        seen.add(made.name)
    return changes


def to_toml(config: Config) -> str:
    """TOML of a configuration. What is null is left out, for TOML has no word for it."""
    import tomlkit

    return tomlkit.dumps(_without_nulls(config.model_dump(mode="json")))


def _parse_toml(text: str) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        return tomllib.loads(text), _toml_lines(text)
    except tomllib.TOMLDecodeError as error:
        twice = re.search("overwrite|twice|mutate", str(error))
        remedy = (
            "it is given twice; leave one of them out" if twice else "text stands in quotes, and null cannot be said"
        )
        raise ValueError(f"not valid TOML: {error}; {remedy}") from None


def _toml_lines(text: str) -> dict[str, int]:
    """The lines of the keys of tables, by their dotted names; those inside of inline tables are not found."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$", line):
            table = f"{_plain(header[1])}."
            found.setdefault(_plain(header[1]), number)
        elif key := re.match(r"\s*([\w.\"' -]+?)\s*=", line):
            found.setdefault(table + _plain(key[1]), number)
    return found


def _plain(key: str) -> str:
    return re.sub(r"[\s\"']", "", key)


def _line(lines: Mapping[str, int], name: str) -> int | None:
    """Where a name stands, or what it is part of."""
    while name and name not in lines:
        name = name.rpartition(".")[0]
    return lines.get(name)


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values. A mapping comes without its keys first, which makes a section of what was none."""
    for key, value in document.items():
        yield prefix + key, {} if isinstance(value, dict) else value
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
