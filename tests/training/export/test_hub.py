"""`mimir export --push`, to a stand-in for the hub on this machine."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from mimir_ray.config import UserError
from mimir_ray.training.export.hub import push, require_writable
from tests.cli.command import mimir


class Hub(ThreadingHTTPServer):
    """Repositories of one user, whose token is ``right``, in memory."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.unknown: list[str] = []


class Requests(BaseHTTPRequestHandler):
    """The requests that an upload makes: small files come inside the commit, large ones before it."""

    server: Hub

    def answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = b""
        while size := int(self.rfile.readline(), 16):
            parts += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return parts

    def refused(self) -> bool:
        if self.headers.get("Authorization") == "Bearer right":
            return False
        self.body()
        self.answer({"error": "Invalid username or password."}, 401)
        return True

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.refused():
            return None
        if path == "/api/whoami-v2":
            return self.answer({"name": "me", "type": "user"})
        name = path.removeprefix("/api/models/").removesuffix("/tree/main").removesuffix("/revision/main")
        files = self.server.repos.get(name)
        if files is None:
            return self.answer({"error": "Repository not found"}, 404)
        tree = [
            {"type": "file", "path": path, "oid": "0" * 40, "size": len(data)} for path, data in sorted(files.items())
        ]
        return self.answer(tree if "/tree/" in path else {"id": name, "sha": "0" * 40, "siblings": tree})

    def do_PUT(self) -> None:
        self.server.large[self.path.removeprefix("/large/")] = self.body()
        self.answer({})

    def do_POST(self) -> None:
        path, server = self.path.partition("?")[0], self.server
        if self.refused():
            return None
        body = self.body()
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if not name.startswith("me/"):
                return self.answer({"error": "You don't have the rights to create a model under this namespace"}, 403)
            server.private.setdefault(name, asked.get("visibility") == "private" or asked.get("private", False))
            server.repos.setdefault(name, {".gitattributes": b""})
            return self.answer({"url": f"{server.url}/{name}", "name": name})
        if path == "/api/validate-yaml":
            assert json.loads(body)["content"]
            return self.answer({"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            modes = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": [mode | {"shouldIgnore": False} for mode in modes]})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**found, "actions": {"upload": {"href": f"{server.url}/large/{found['oid']}"}}}
                for found in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        if path.endswith("/commit/main"):
            return self.commit(path.removeprefix("/api/models/").removesuffix("/commit/main"), body)
        server.unknown.append(path)
        return self.answer({"error": f"{path} is not known here"}, 500)

    def commit(self, name: str, body: bytes) -> None:
        files = self.server.repos[name]
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        self.answer({"commitUrl": f"{self.server.url}/{name}/commit/1", "commitOid": "1" * 40, "success": True})

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # a protocol of storage services
    monkeypatch.setenv("HF_TOKEN", "right")
    huggingface_hub.close_session()
    yield server
    server.shutdown()
    server.server_close()
    huggingface_hub.close_session()
    assert not server.unknown


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A directory with the files of an export; another form of it had a file more."""
    folder = tmp_path / "export"
    (folder / "token_fuser").mkdir(parents=True)
    for name in ("training.json", "language.json", "README.md", "token_fuser/config.json"):
        (folder / name).write_text(f'{{"of": "{name}"}}')
    (folder / "token_fuser" / "diffusion_pytorch_model.safetensors").write_bytes(bytes(range(256)) * 100)
    (folder / "pytorch_lora_weights.safetensors").write_bytes(b"lora" * 99)
    return folder


def held(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_new_repository_is_private_and_holds_the_export(hub: Hub, export: Path) -> None:
    require_writable("me/mimir", str(export))
    assert push(str(export), "me/mimir") == f"{hub.url}/me/mimir"
    assert hub.private == {"me/mimir": True}
    assert hub.repos["me/mimir"] == held(export) | {".gitattributes": b""}


def test_the_command_uploads_what_it_wrote(hub: Hub, export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    write = "mimir_ray.training.export.export_run"
    monkeypatch.setattr(write, lambda run, out, **options: asked.append(options["form"]) or str(export))
    result = mimir("export", str(export.parent), "--adapter", "--push", "me/mimir")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(export), f"{hub.url}/me/mimir"]
    assert asked == ["adapter"]
    assert hub.repos["me/mimir"].keys() == held(export).keys() | {".gitattributes"}
    result = mimir("export", str(export.parent), "--push", "you/mimir")
    assert result.exit_code == 2
    assert f"the export itself is at {export}" in result.output


def test_the_next_export_takes_the_place_of_the_last(hub: Hub, export: Path) -> None:
    hub.private["me/mimir"] = False
    push(str(export), "me/mimir")
    (export / "pytorch_lora_weights.safetensors").unlink()
    (export / "training.json").write_text("{}")
    require_writable("me/mimir", str(export))
    push(str(export), "me/mimir")
    assert hub.repos["me/mimir"] == held(export) | {".gitattributes": b""}
    assert hub.private == {"me/mimir": False}


def test_nothing_but_an_export_is_replaced(hub: Hub, export: Path) -> None:
    hub.repos["me/mimir"] = {".gitattributes": b"", "README.md": b"", "weights.bin": b"precious"}
    with pytest.raises(UserError, match="me/mimir holds something else than an export"):
        require_writable("me/mimir", str(export))
    hub.repos["me/mimir"].pop("weights.bin")
    require_writable("me/mimir", str(export))


def test_refusals_of_the_hub_are_said(hub: Hub, export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"the hub refuses you/mimir .*a token that may write there, or another name"):
        push(str(export), "you/mimir")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    for call in (lambda: require_writable("me/mimir", "out"), lambda: push(str(export), "me/mimir")):
        with pytest.raises(UserError, match="does not know who uploads to me/mimir: run `hf auth login`, or set HF_T"):
            call()
    assert not hub.repos


def test_nobody_who_is_logged_in(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None)
    with pytest.raises(UserError, match="run `hf auth login`"):
        require_writable("me/mimir", "out")


def test_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"me/mimir cannot be uploaded to .*see that HF_ENDPOINT and the network work"):
        require_writable("me/mimir", "out")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set: unset it"):
        require_writable("me/mimir", "out")


@pytest.mark.parametrize(
    ("repo", "out", "told"),
    [
        ("mimir", "out", "'mimir' is no repository; name OWNER/NAME"),
        ("me/mi mir", "out", "'me/mi mir' is no repository"),
        ("me/mimir", "s3://bucket/run", "is not on this machine, from which --push uploads: give a directory with --o"),
    ],
)
def test_mistakes_are_said_before_the_hub_is_asked(repo: str, out: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        require_writable(repo, out)
