"""What tests of several verbs share."""

import pytest

from mimir_ray.cli import submit
from tests.cli.command import ROOT
from tests.cli.job_client import FakeClient


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    monkeypatch.chdir(ROOT)
    client = FakeClient()
    monkeypatch.setattr(submit, "open_client", lambda address: client)
    return client
