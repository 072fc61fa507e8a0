"""Strict configuration: one frozen pydantic class per component, one way to load, override and fingerprint it.

A component declares a subclass of ``Config`` beside its code, with no import of torch, ray or deepspeed:

    class CurationConfig(Config):
        min_duration_s: float = Field(2.0, gt=0)

    config = override(CurationConfig(), ["min_duration_s=3"])
    fingerprint(config)                                     # 16 hex characters that name this configuration

Sequences are tuples (a frozen object must not hold a list), and no field is a set (its order would change the
fingerprint).
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class UserError(Exception):
    """A mistake the user can mend. The message names the value, the limit and the remedy; the CLI prints it alone."""


class Config(BaseModel):
    """A frozen, keyword-only configuration: unknown fields, loose types and non-finite numbers are errors.

    An int is accepted for a float; nothing else is converted.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


C = TypeVar("C", bound=Config)


def fingerprint(config: Config) -> str:
    """Sixteen hex characters of the SHA-256 of the configuration's canonical JSON."""
    canonical = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def from_dict(cls: type[C], data: Mapping[str, Any], origin: str = "") -> C:
    """Validate plain data (dicts, lists, scalars) into ``cls``; ``origin``, such as a file name, opens the error."""
    prefix = f"{origin}: " if origin else ""
    try:
        document = json.dumps(data)
    except (TypeError, ValueError) as error:
        raise UserError(f"{prefix}only numbers, text, lists and mappings can be values: {error}") from None
    try:
        return cls.model_validate_json(document)
    except ValidationError as error:
        raise UserError(prefix + "; ".join(_explain(cls, detail) for detail in error.errors())) from None


def to_yaml(config: Config) -> str:
    """YAML that ``from_yaml`` reads back to an equal configuration."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def from_yaml(cls: type[C], text: str, origin: str = "") -> C:
    """Load a configuration from YAML text. A field that is not named keeps its default."""
    data = _parse_yaml(text, origin or "the configuration")
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise UserError(f"{origin or 'the configuration'} holds a {_kind(data)}; it must be a mapping of field: value")
    return from_dict(cls, data, origin)


def override(config: C, assignments: Sequence[str]) -> C:
    """A copy of ``config`` with each ``dotted.field=value`` applied; values are YAML scalars, lists or mappings.

    The result is validated once, after the last assignment, so fields that depend on each other can change together.
    """
    data = config.model_dump(mode="json")
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UserError(f"cannot read {assignment!r}: write field=value, for example training.learning_rate=1e-4")
        _assign(config, data, name, _parse_yaml(text, assignment))
    return from_dict(type(config), data)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Sentences such as ``motion.limit was 0.5 and is now 1.0`` for every leaf in which two dumped configs differ."""
    found: list[str] = []
    for key in [*old, *(key for key in new if key not in old)]:
        name = prefix + str(key)
        if key not in old:
            found.append(f"{name} is new ({_show(new[key])})")
        elif key not in new:
            found.append(f"{name} is gone (was {_show(old[key])})")
        elif isinstance(old[key], Mapping) and isinstance(new[key], Mapping):
            found.extend(differences(old[key], new[key], f"{name}."))
        elif old[key] != new[key]:
            found.append(f"{name} was {_show(old[key])} and is now {_show(new[key])}")
    return found


def _assign(config: Config, data: dict[str, Any], name: str, value: Any) -> None:
    """Set the leaf called ``name`` in ``data``, checking every step of the way against the fields of ``config``."""
    *parents, leaf = name.split(".")
    node: Any = data
    owner: Any = config
    walked = ""
    for part in [*parents, leaf]:
        if isinstance(owner, BaseModel):
            fields = list(type(owner).model_fields)
            if part not in fields:
                if elsewhere := [found for found in _names(config) if found.endswith(f".{name}")]:
                    raise UserError(f"there is no field {name} here; did you mean {' or '.join(elsewhere[:3])}?")
                raise UserError(_unknown_field(walked + part, part, fields))
        elif not isinstance(owner, dict):
            whole = walked.rstrip(".")
            raise UserError(f"cannot set {name}: {whole} is {_show(owner)} and has no fields; set {whole} as a whole")
        if (walked + part) == name:
            node[part] = value
            return
        owner = getattr(owner, part) if isinstance(owner, BaseModel) else owner.get(part)
        if isinstance(owner, BaseModel | dict) and not isinstance(node.get(part), dict):
            node[part] = {}  # an earlier assignment put something else there; validation will judge the whole
        node = node.get(part)
        walked += part + "."


def _names(config: BaseModel, prefix: str = "") -> Iterator[str]:
    """Dotted names of every field, those of the configurations in it included."""
    for field in type(config).model_fields:
        yield prefix + field
        if isinstance(value := getattr(config, field), BaseModel):
            yield from _names(value, f"{prefix}{field}.")


def _explain(cls: type[BaseModel], detail: Any) -> str:
    """One pydantic error as a sentence with the field, the value, what is allowed and how to mend it."""
    location: tuple[str | int, ...] = detail["loc"]
    name = ".".join(str(part) for part in location) or "the configuration"
    kind: str = detail["type"]
    if kind == "extra_forbidden":
        return _unknown_field(name, str(location[-1]), _fields_at(cls, location[:-1]))
    if kind == "missing":
        return f"{name} is required and was not given: set {name}=..."
    if kind in ("value_error", "assertion_error"):
        return f"{name}: {detail['ctx']['error']}"
    message = detail["msg"].removeprefix("Input should be ")
    sentence = f"{name} is {_show(detail['input'])}; it must be {message}"
    if kind == "string_type" and isinstance(detail["input"], bool | int | float):
        sentence += f" (quote it to make it text: '{name}=\"...\"')"
    return sentence


def _fields_at(cls: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Names of the fields of the nested model that ``location`` points into."""
    owner: type[BaseModel] | None = cls
    for part in location:
        if owner is None or part not in owner.model_fields:
            continue  # an index into a tuple, a key of a mapping or the tag of a union
        owner = _model_in(owner.model_fields[str(part)].annotation)
    return list(owner.model_fields) if owner else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic class inside an annotation such as ``FuserConfig | None`` or ``tuple[Stage, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for model in map(_model_in, get_args(annotation)) if model), None)


def _unknown_field(name: str, part: str, fields: Sequence[str]) -> str:
    near = [field for field in fields if part == "".join(word[:1] for word in field.split("_"))]  # lr, for one
    near = near or difflib.get_close_matches(part, fields, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the fields are {', '.join(fields) or '(none)'}"
    return f"there is no field {name}; {hint}"


def _show(value: Any, limit: int = 120) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _kind(value: Any) -> str:
    return {"list": "list", "str": "text", "bool": "truth value"}.get(type(value).__name__, "number")


# PyYAML follows YAML 1.1, where 1e-4 is text, `no` is false and 1:30 is ninety. These two classes follow the core
# schema of YAML 1.2 instead, for reading and for writing alike (a writer that thinks 1e-4 is text would not quote it).


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", node.start_mark)
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    pass


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


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error)
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UserError(
            f"{origin} is not valid YAML{where}: {problem}; quote text that has special characters"
        ) from None
