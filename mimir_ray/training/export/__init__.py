"""What was trained becomes a model that others load: a directory, its page, and a repository of the hub."""

from mimir_ray.training.export.directory import ACCOUNT, export, export_run, require_replaceable, trained_pipeline

__all__ = ["ACCOUNT", "export", "export_run", "require_replaceable", "trained_pipeline"]
