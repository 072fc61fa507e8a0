"""Templates on the shared frame: what they escape, and what they refuse to leave out in silence."""

from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError
from jinja2.exceptions import TemplateRuntimeError
from markupsafe import Markup

from mimir_ray.pages import render


def made(folder: Path, main: str, **data: Any) -> str:
    """What a template makes of ``main`` between the frame's <main> and its end."""
    template = folder / "page.html"
    template.write_text(
        '{% extends "frame.html" %}{% from "macros.html" import bar, table_rows %}'
        "{% block title %}{{ title }}{% endblock %}{% block main %}" + main + "{% endblock %}"
    )
    page = render(template, title="a <title>", **data)
    assert page.startswith("<!doctype html>")
    assert "<title>a &lt;title&gt;</title>" in page
    return page.partition("<main>\n")[2].partition("</main>")[0]


def test_text_is_escaped_and_markup_is_not(tmp_path: Path) -> None:
    text = "<script>'\"&"
    assert made(tmp_path, '<i id="{{ text }}">{{ text }}</i>', text=text).count("&lt;script&gt;&#39;&#34;&amp;") == 2
    assert made(tmp_path, "{{ svg }}", svg=Markup("<svg/>")) == "<svg/>"
    assert made(tmp_path, "{{ table_rows([[text, 1]]) }}", text="<b>") == "<tr><td>&lt;b&gt;</td><td>1</td></tr>\n"


def test_numbers_and_bytes(tmp_path: Path) -> None:
    page = made(tmp_path, '{{ 1234567|number }} {{ 0.125|number(".1%") }} {{ data|base64 }}', data=b"\xff\xfe\xfd")
    assert page == "1,234,567 12.5% //79"


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    for main in (
        "{{ missing }}",
        "{{ row.missing }}",
        "{% if row.missing %}{% endif %}",
        "{% for x in missing %}{% endfor %}",
    ):
        with pytest.raises(UndefinedError, match="missing"):
            made(tmp_path, main, row={"here": 1})
    with pytest.raises(ValueError, match="zip"):
        made(tmp_path, "{% for a, b in zip([1, 2], [3]) %}{% endfor %}")
    (tmp_path / "bare.html").write_text('{% extends "frame.html" %}')
    with pytest.raises(TemplateRuntimeError, match="title"):
        render(tmp_path / "bare.html")


def test_a_bar_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    assert made(tmp_path, "{{ bar({}) }}").strip() == '<div class="bar"></div>'
    page = made(tmp_path, "{{ bar(counts) }}", counts={"ok": 3000, "rejected": 0, '"<b>': 1})
    assert page.count("<span") == 2
    assert '<span class="ok" style="flex:3000" title="3,000 ok"></span>' in page
    assert "<b>" not in page
