"""An empty place on each kind of file system."""

from pathlib import Path

import pytest

from mimir_ray.storage import content_id, join


@pytest.fixture(params=["local", "file", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place on each kind of file system."""
    name = content_id(request.node.nodeid)
    if request.param == "s3":
        return join(request.getfixturevalue("s3"), name)
    return {"local": str(tmp_path), "file": tmp_path.as_uri(), "memory": f"memory://{name}"}[request.param]
