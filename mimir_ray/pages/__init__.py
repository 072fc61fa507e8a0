"""Pages of HTML that stand alone: a template beside the module that gathers its data, on the frame that all share."""

import base64
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

SHARED = Path(__file__).parent


def render(template: Path, **data: Any) -> str:
    """The page that ``template`` makes of ``data``; it may use ``frame.html`` and ``macros.html`` of this folder.

    All text is escaped that is not ``markupsafe.Markup``. A template has three words more than Jinja's own: ``zip``,
    which wants equal lengths, and the filters ``number`` (a format such as ``.1%``) and ``base64`` (of bytes).

    Raises:
        jinja2.UndefinedError: the template names what ``data`` lacks.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["zip"] = partial(zip, strict=True)
    environment.filters["number"] = _number
    environment.filters["base64"] = _base64
    return environment.get_template(template.name).render(data)


def _number(value: float, form: str = ",") -> str:
    return format(value, form)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
