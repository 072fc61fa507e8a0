"""The mistakes of a first day, over all verbs: one message, before any work, no traceback and no Ray."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from tests.cli.command import mimir

OUT = {
    "curate": ["curate", "{data}", "--out", "{out}"],
    "curate --export": ["curate", "{data}", "--out", "{new}", "--export", "{out}"],
    "curate report": ["curate", "report", "{out}"],
    "precompute": ["precompute", "--data", "{out}"],
    "train": ["train", "--data", "{data}", "--out", "{out}"],
    "generate": ["generate", "a red circle", "--out", "{out}"],
    "generate one file": ["generate", "a red circle", "--out", "{out}/x.mp4"],
    "generate LIST": ["generate", "{list}", "--out", "{out}"],
    "serve": ["serve", "--out", "{out}"],
    "init": ["init", "--out", "{out}"],
    "export": ["export", "{data}", "--out", "{out}"],
    "quickstart": ["quickstart", "--out", "{out}"],
    "shapes render": ["shapes", "render", "{out}"],
}
"""Every verb that writes somewhere."""
PLACES = {"a file": "{file}", "in a file": "{file}/deeper", "not writable": "/proc/nowhere"}

CLUSTER = {
    "curate": ["curate", "{data}", "--out", "{new}"],
    "precompute": ["precompute", "--data", "{data}"],
    "train": ["train", "--data", "{data}", "--out", "{new}"],
    "generate LIST": ["generate", "{list}", "--out", "{new}"],
    "serve": ["serve", "--port", "8765", "--out", "{new}"],
    "quickstart": ["quickstart", "--out", "{new}"],
}
"""Every verb that joins a cluster."""

NAMES = {
    "precompute": ["precompute", "--data", "{data}", "--set", "model.base=nobody/nothing"],
    "precompute llm": ["precompute", "--data", "{data}", "--set", "model.llm=nobody/nothing"],
    "train": ["train", "--data", "{data}", "--out", "{new}", "--set", "model.base=nobody/nothing"],
    "train llm": ["train", "--data", "{data}", "--out", "{new}", "--set", "model.llm=nobody/nothing"],
    "train --estimate": ["train", "--estimate", "--set", "model.base=nobody/nothing"],
    "generate": ["generate", "red", "--out", "{new}", "--recipe", "shapes", "--model", "nobody/nothing"],
    "generate LIST": ["generate", "{list}", "--out", "{new}", "--recipe", "shapes", "--model", "nobody/nothing"],
    "serve": ["serve", "--out", "{new}", "--model", "nobody/nothing"],
    "init": ["init", "--out", "{new}", "--set", "model.base=nobody/nothing"],
    "init llm": ["init", "--out", "{new}", "--set", "model.llm=nobody/nothing"],
    "quickstart": ["quickstart", "--out", "{new}", "--set", "model.base=nobody/nothing"],
}
"""Every verb that is told a model."""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """What commands name; a Ray that starts is a failure."""
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray is started"))
    monkeypatch.setattr("mimir_ray.serving.app.check_port", lambda config: None)
    (tmp_path / "data").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "list.txt").write_text("a red circle\n")
    names = {"data": "data", "file": "file", "new": "new", "list": "list.txt"}
    return {name: str(tmp_path / file) for name, file in names.items()}


def refused(command: list[str], places: Mapping[str, str], **more: str) -> str:
    """What a command is told, in one line."""
    result = mimir(*(word.format(**places, **more) for word in command))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("mimir: ")]
    assert result.stderr.strip() == line, "one message"
    assert not Path(places["new"]).exists(), "nothing is made"
    return line


@pytest.mark.parametrize(("verb", "place"), itertools.product(OUT, PLACES))
def test_where_nothing_can_be_written(verb: str, place: str, places: Mapping[str, str]) -> None:
    if (verb, place) in {("precompute", "not writable"), ("curate report", "not writable")}:
        place = "in a file"  # what they write beside has to be there
    out = PLACES[place].format(**places)
    told = refused(OUT[verb], places, out=out)
    assert out in told
    assert any(reason in told for reason in ("is a file", "cannot be written", "does not exist", "not an empty"))


@pytest.mark.parametrize("verb", CLUSTER)
def test_a_dashboards_address(verb: str, places: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimir_ray.cli.preflight.check_tables", lambda *_: None)
    told = refused([*CLUSTER[verb], "--address", "http://head:8265"], places)
    assert "'http://head:8265' is a dashboard's" in told
    assert "mimir submit" in told


@pytest.mark.parametrize("verb", NAMES)
@pytest.mark.parametrize("offline", [True, False], ids=["offline", "not on the hub"])
def test_a_model_that_nobody_has(
    verb: str, offline: bool, places: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any, **__: Any) -> str:
        if offline:
            raise LocalEntryNotFoundError("no network")
        answer: Any = SimpleNamespace(headers={}, request=None, status_code=404)
        raise RepositoryNotFoundError("404 Client Error\nfor many lines", response=answer)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    told = refused(NAMES[verb], places)
    assert "nobody/nothing" in told
    assert ("the hub cannot be reached" if offline else "the hub has no model") in told


@pytest.mark.parametrize("verb", ["generate", "generate LIST", "serve", "quickstart"])
def test_more_steps_than_the_schedule_has(verb: str, places: Mapping[str, str]) -> None:
    command = (OUT | CLUSTER)[verb]
    told = refused([*command, "--set", "generation.num_inference_steps=1001"], places, out=places["new"])
    assert "generation.num_inference_steps is 1001; it must be less than or equal to 1000" in told
