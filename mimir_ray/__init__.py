"""Mimir on Ray: from raw videos to a text-to-video endpoint whose model understands its prompt."""

__version__ = "0.1.0"
