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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from mimir_ray import yaml_core


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
_MUST_BE = "; it must be "


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
        raise UserError(prefix + explain(cls, error)) from None


def explain(cls: type[BaseModel], error: ValidationError, prefix: Callable[[str], str] = lambda name: "") -> str:
    """What pydantic says against a ``cls``, in sentences with field, value, what is allowed and how to mend it.

    Args:
        prefix: what opens the sentence about a field; about the whole, whose name is empty.
    """
    details = [
        detail
        for detail in error.errors()
        # Of a union such as `Split | Literal["off"]` the other branch is what a mapping was meant for.
        if not (detail["type"] == "literal_error" and isinstance(detail["input"], dict))
    ] or error.errors()
    allowed: dict[str, list[str]] = {}
    for detail in details:
        wrong, _, right = (prefix(_name(cls, detail["loc"])) + _explain(cls, detail)).partition(_MUST_BE)
        allowed.setdefault(wrong, []).append(right)  # several, where it may be one thing or another
    return "; ".join(
        wrong + (_MUST_BE + " or ".join(rights) if all(rights) else "") for wrong, rights in allowed.items()
    )


def to_yaml(config: Config) -> str:
    """YAML that ``from_yaml`` reads back to an equal configuration."""
    return yaml_core.dump(config.model_dump(mode="json"))


def from_yaml(cls: type[C], text: str, origin: str = "") -> C:
    """Load a configuration from YAML text. A field that is not named keeps its default."""
    data = _parse_yaml(text, origin or "the configuration")
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise UserError(f"{origin or 'the configuration'} holds a {_kind(data)}; it must be a mapping of field: value")
    return from_dict(cls, data, origin)


@dataclass(frozen=True)
class Change:
    """A new value of the field called ``name``, dotted, and the file and line that say so; an assignment has none."""

    name: str
    value: Any
    file: str = ""
    line: int | None = None

    @property
    def origin(self) -> str:
        """What opens an error: ``run.yaml:3: ``, or nothing."""
        return f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""


def override(config: C, assignments: Sequence[str]) -> C:
    """A copy of ``config`` with each ``dotted.field=value`` applied; values are YAML scalars, lists or mappings."""
    return change(config, read_assignments(assignments))


def read_assignments(assignments: Sequence[str]) -> list[Change]:
    """The changes that ``dotted.field=value`` mean."""
    changes = []
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UserError(f"cannot read {assignment!r}: write field=value, for example training.learning_rate=1e-4")
        changes.append(Change(name, _parse_yaml(text, assignment)))
    return changes


def change(config: C, changes: Sequence[Change]) -> C:
    """A copy of ``config`` with the changes, in their order.

    The result is validated once, after the last of them, so fields that depend on each other can change together.
    """
    data = config.model_dump(mode="json")
    for made in changes:
        try:
            value = json.loads(json.dumps(made.value))
            _assign(config, data, replace(made, value=value))
        except UserError as error:
            raise UserError(f"{made.origin}{error}") from None
        except (TypeError, ValueError) as error:
            problem = f"only numbers, text, lists and mappings can be values: {error}"
            raise UserError(f"{made.origin}{made.name}: {problem}") from None
    try:
        return type(config).model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise UserError(explain(type(config), error, lambda name: _written(changes, name))) from None


def _written(changes: Sequence[Change], name: str) -> str:
    """The file and line of the last change of a field, or of what it is part of; the file alone of what has parts."""
    for made in reversed(changes):
        if name == made.name or name.startswith(f"{made.name}."):
            return made.origin
        if not name or made.name.startswith(f"{name}."):
            return replace(made, line=None).origin
    return ""


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


def _assign(config: Config, data: dict[str, Any], made: Change) -> None:
    """Change a leaf of ``data``, checking every step of the way against the fields of ``config``.

    What a file says of a section comes field by field, after an empty mapping, which opens a section that is ``off``.
    """
    name = made.name
    node: Any = data
    owner: Any = config
    walked = ""
    for part in name.split("."):
        if not isinstance(node, dict):
            whole = walked.rstrip(".")
            raise UserError(f"cannot set {name}: {whole} is {_show(node)} and has no fields; set {whole} as a whole")
        if isinstance(owner, BaseModel) and part not in (fields := list(type(owner).model_fields)):
            if elsewhere := [found for found in _names(config) if found.endswith(f".{name}")]:
                raise UserError(f"there is no field {name} here; did you mean {' or '.join(elsewhere[:3])}?")
            raise UserError(_unknown_field(walked + part, part, fields))
        if (walked + part) == name:
            says_nothing = made.file and made.value == {} and isinstance(node.get(part), dict)
            node[part] = node[part] if says_nothing else made.value
            return
        inner = dict(owner) if isinstance(owner, BaseModel | dict) else {}
        owner = inner.get(part)
        if isinstance(owner, BaseModel | dict) and not isinstance(node.get(part), dict):
            node[part] = {}  # an earlier change put something else there; validation will judge the whole
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
    name = _name(cls, location) or "the configuration"
    kind: str = detail["type"]
    if kind == "extra_forbidden":
        return _unknown_field(name, str(location[-1]), _fields_at(cls, location[:-1]))
    if kind == "missing":
        return f"{name} is required and was not given: set {name}=..."
    if kind in ("value_error", "assertion_error"):
        return f"{name}: {detail['ctx']['error']}"
    message = detail["msg"].removeprefix("Input should be ")
    sentence = f"{name} is {_show(detail['input'])}{_MUST_BE}{message}"
    if kind == "string_type" and isinstance(detail["input"], bool | int | float):
        sentence += f" (quote it to make it text: '{name}=\"...\"')"
    return sentence


def _name(cls: type[BaseModel], location: Sequence[str | int]) -> str:
    """The dotted name of what ``location`` points to; the tags that pydantic puts in for unions are left out."""
    parts: list[str] = []
    owner: type[BaseModel] | None = cls
    for part in location:
        if owner is not None and (part == owner.__name__ or str(part).startswith("literal[")):
            continue
        if owner is not None and part in owner.model_fields:
            owner = model_in(owner.model_fields[str(part)].annotation)
        parts.append(str(part))
    return ".".join(parts)


def _fields_at(cls: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Names of the fields of the nested model that ``location`` points into."""
    owner: type[BaseModel] | None = cls
    for part in location:
        if owner is None or part not in owner.model_fields:
            continue  # an index into a tuple, a key of a mapping or the tag of a union
        owner = model_in(owner.model_fields[str(part)].annotation)
    return list(owner.model_fields) if owner else []


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic class inside an annotation such as ``FuserConfig | None`` or ``tuple[Stage, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for model in map(model_in, get_args(annotation)) if model), None)


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


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        return yaml_core.parse(text)
    except ValueError as error:
        raise UserError(f"{origin} is {error}") from None
