"""The application under the import path that Serve YAMLs name: `serve.app:build`."""

from mimir_ray.serving.app import build as build
