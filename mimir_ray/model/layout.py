"""The names in a saved Mimir by which plain diffusers finds its classes, once it is told to trust the model's files.

DiffusionPipeline.from_pretrained(directory, trust_remote_code=True)
"""

import json
from pathlib import Path
from typing import Any

LANGUAGE_FILE = "language.json"
"""Beside what a training learnt, where that is saved without the model: what the LLM is asked."""
_INDEX = "model_index.json"
_PIPELINE, _FUSER = ["pipeline", "MimirPipeline"], ["token_fuser", "TokenFuser"]
"""File and class, as diffusers writes custom code in an index."""
_FUSER_MODULE = "mimir_ray.model.token_fuser"

_PIPELINE_FILE = '''"""The class of this model, for diffusers; it needs mimir-ray to be installed."""

from mimir_ray.model.pipeline import MimirPipeline

__all__ = ["MimirPipeline"]
'''
_FUSER_FILE = f'''"""The class of this component, for diffusers; it needs mimir-ray to be installed."""

from {_FUSER_MODULE} import TokenFuser

__all__ = ["TokenFuser"]
'''
_UNMERGED_FILE = '''"""Says how this model is loaded, to diffusers."""

raise ImportError(
    "this model keeps its adapters beside its weights, and DiffusionPipeline does not put them on: load it with "
    "mimir_ray.model.pipeline.MimirPipeline.from_pretrained"
)
'''


def publish(folder: Path) -> None:
    """Give the index of a saved Mimir the names of files, and write these beside it."""
    index = json.loads((folder / _INDEX).read_text())
    index |= {"_class_name": _PIPELINE, "token_fuser": _FUSER}
    (folder / _INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    (folder / f"{_PIPELINE[0]}.py").write_text(_PIPELINE_FILE)
    (folder / "token_fuser").mkdir(exist_ok=True)
    (folder / "token_fuser" / f"{_FUSER[0]}.py").write_text(_FUSER_FILE)


def keep_unmerged(folder: Path) -> None:
    """Let plain diffusers refuse a model whose adapters lie apart, which it would load without them."""
    (folder / f"{_PIPELINE[0]}.py").write_text(_UNMERGED_FILE)


def own_names(index: dict[str, Any]) -> dict[str, Any]:
    """The index with the package's own names, so that no file of the model has to be trusted."""
    names = {"_class_name": (_PIPELINE, _PIPELINE[1]), "token_fuser": (_FUSER, [_FUSER_MODULE, _FUSER[1]])}
    return index | {key: own for key, (file, own) in names.items() if index.get(key) == file}
