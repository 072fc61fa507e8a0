"""What a user sees of Ray's own log."""

import importlib
import io
import logging
from typing import Any

from mimir_ray.cli import ray_cluster


def test_ray_says_what_goes_wrong_and_not_what_goes_well() -> None:
    importlib.import_module("ray.data")
    shown = io.StringIO()
    data, serve = logging.getLogger("ray.data"), logging.getLogger("ray.serve")
    before: list[Any] = [serve.filters[:], *((handler, handler.level) for handler in data.handlers)]
    terminal = logging.StreamHandler(shown)
    data.addHandler(terminal)
    serve.addHandler(terminal)
    try:
        ray_cluster._keep_notes_off_the_terminal()
        kinds = ((handler, isinstance(handler, logging.StreamHandler)) for handler in data.handlers)
        levels = [handler.level for handler, prints in kinds if prints and handler is not terminal]
        for logger in (data.getChild("_internal.execution"), serve):
            logger.info("%s is fine", logger.name)
            logger.warning("%s lacks a GPU", logger.name)
        data.getChild("_internal.progress").warning("Progress bars disabled")
    finally:
        serve.filters = before[0]
        for handler, level in before[1:]:
            handler.setLevel(level)
        data.removeHandler(terminal)
        serve.removeHandler(terminal)
    assert levels, "Ray's own handler is there"
    assert set(levels) == {logging.WARNING}
    assert shown.getvalue() == "ray.data._internal.execution lacks a GPU\nray.serve lacks a GPU\n"
