"""Were the tables of a data root made by what the recipe names? Looked at before training takes a machine."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimir_ray.config import Config, UserError, differences
from mimir_ray.model.config import ModelConfig
from mimir_ray.precompute.config import PrecomputeConfig

logger = logging.getLogger(__name__)

_ORIGINS = ("vae", "text_encoder", "llm")
"""Fields of a table's key that say which checkpoint made it: a content id, or a hub id with its revision."""


def check_tables(data: str, model: ModelConfig, config: PrecomputeConfig) -> None:
    """Compare the key of each finished table under ``data`` with that of a precompute by this model and configuration.

    A finished model carries on the encoders of the one that it was trained from, rewritten in its own number format
    and with the place that they were read from; so where ``model.base`` says that it was trained on tables of the same
    key, the encoders are the same. Where one side is a directory and the other a hub id nobody can tell: that is a
    warning.

    Raises:
        UserError: a table was made by another model, or with other frames, formats, questions or seeds; with what
            differs and both remedies.
    """
    from mimir_ray.precompute.keys import table_keys
    from mimir_ray.storage import Table, join

    trained_on = _trained_on(model.base)
    for name, key in table_keys(model, config).items():
        if name == "answers":  # not read by training; all that decides it decides llm_tokens
            continue
        manifest = Table(join(data, name)).manifest()
        if manifest is not None:
            same = trained_on.get(name) == manifest.fingerprint
            _compare(data, name, manifest.config, key, same_encoders=same)


def _compare(data: str, table: str, made: Mapping[str, Any], wanted: Config, *, same_encoders: bool) -> None:
    dumped = wanted.model_dump(mode="json")
    origins = {field for field in _ORIGINS if field in dumped and made.get(field) != dumped[field]}
    if same_encoders:
        origins = set()
    elif unclear := {field for field in origins if _on_hub(made.get(field)) != _on_hub(dumped[field])}:
        for field in sorted(unclear):
            logger.warning(
                "%s of %s was made by %s and the recipe has %s: one of them is a directory, so whether they are the "
                "same cannot be told; if not, run `mimir precompute` with this recipe",
                *(table, data, made.get(field), dumped[field]),
            )
        origins -= unclear
    ignored = {field for field in _ORIGINS if field not in origins}
    changed = differences(
        {field: value for field, value in made.items() if field not in ignored},
        {field: value for field, value in dumped.items() if field not in ignored},
    )
    if changed:
        raise UserError(
            f"{table} of {data} was made by something else than the recipe says: {'; '.join(changed)}. Run `mimir "
            f"precompute --data {data} --overwrite` with this recipe, which makes that table anew, or give "
            "`mimir train` the --recipe and --set that the table was made with"
        )


def _on_hub(origin: Any) -> bool:
    return isinstance(origin, str) and "@" in origin


def _trained_on(base: str) -> dict[str, str]:
    """Fingerprints of the tables that a finished model was trained on, by name; nothing for other checkpoints."""
    account = Path(base, "training.json")
    return dict(json.loads(account.read_text()).get("tables", {})) if account.is_file() else {}
