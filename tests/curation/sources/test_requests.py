"""What the driver asks of an object store does not grow with the videos in it, but for the pages of the listing."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.fs as pafs
import pytest

from mimir_ray.curation.sources import SourceFile, captions_of_source, plan
from mimir_ray.storage import READERS, filesystem, join, write_bytes
from tests.curation.sources.world import files_in


@pytest.fixture
def counted() -> Iterator[tuple[str, list[str]]]:
    """A bucket, and the requests that came for it."""
    boto3, server_module = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    application, asked = server._server.app, list[str]()

    def counting(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        asked.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        return application(environ, start_response)

    server._server.app = counting
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="counted")
    yield f"s3://counted?endpoint_override=http://{host}:{port}", asked
    server.stop()


def corpus(place: str, videos: int) -> None:
    """Videos in folders of ten, half of them with texts, and one captions file."""
    data = {f"{index // 10}/{index}.mp4": b"x" * (100 + index) for index in range(videos)}
    data |= {f"{index // 10}/{index}.txt": b"A text." for index in range(1, videos, 2)}
    with ThreadPoolExecutor(READERS) as writers:
        list(writers.map(lambda name: write_bytes(join(place, "in", name), data[name]), data))
    rows = ({"path": f"{index // 10}/{index}.mp4", "text": "A line."} for index in range(0, videos, 4))
    write_bytes(join(place, "in", "captions.jsonl"), "".join(json.dumps(row) + "\n" for row in rows).encode())


def listed(place: str, videos: int) -> None:
    """A list of them all."""
    rows = ({"path": f"in/{index // 10}/{index}.mp4", "text": "A row."} for index in range(videos))
    write_bytes(join(place, "list.jsonl"), "".join(json.dumps(row) + "\n" for row in rows).encode())


@pytest.mark.parametrize("source", ["in", "list.jsonl"])
def test_requests_do_not_grow_with_the_videos(counted: tuple[str, list[str]], source: str) -> None:
    bucket, asked = counted
    requests = {}
    for videos in (20, 200):
        place = join(bucket, str(videos))
        corpus(place, videos)
        listed(place, videos)
        asked.clear()
        files = files_in(join(place, source))
        plan(files, 64)
        requests[videos] = len(asked)
        assert len(files) == videos
        assert not [line for line in asked if line.endswith((".mp4", ".txt"))]
    assert requests[200] == requests[20] <= 20
    texts = [captions_of_source(file)[0].text for file in sorted(files, key=lambda file: file.size_bytes)][:4]
    assert texts == (["A row."] * 4 if source == "list.jsonl" else ["A line.", "A text.", "2", "A text."])


def test_samples_are_read_several_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(32):
        write_bytes(f"memory://alike/{index}.mp4", bytes([index]) * 1000)

    class Slow(pafs.FSSpecHandler):  # type: ignore[misc]
        def open_input_file(self, path: str) -> Any:
            time.sleep(0.05)
            return super().open_input_file(path)

    handler = filesystem("memory://alike")[0].handler
    slow = pafs.PyFileSystem(Slow(handler.fs))
    monkeypatch.setattr("mimir_ray.curation.sources.shards.filesystem", lambda uri: (slow, filesystem(uri)[1]))
    files = [SourceFile(f"memory://alike/{index}.mp4", 1000, 0) for index in range(32)]
    start = time.monotonic()
    assert len(plan(files, 4)) > 1
    assert time.monotonic() - start < 32 * 0.05 / (READERS / 4)
