"""The videos API over HTTP, with the real graph classes in this process and an engine without weights."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mimir_ray.serving.config import RequestLimits
from tests.serving.local_graph import FakeEngine, local_server, serving_config, wait_for, wait_until


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def url(engine: FakeEngine, tmp_path: Path) -> Iterator[str]:
    config = serving_config(str(tmp_path), max_unfinished=3, limits=RequestLimits(max_frames=33))
    with local_server(config, engine) as address:
        yield address


def post(url: str, **body: Any) -> requests.Response:
    return requests.post(f"{url}/v1/videos", json={"prompt": "a red ball", **body}, timeout=60)


def test_a_video_from_prompt_to_mp4(url: str) -> None:
    created = post(url, seed=7, seconds="2", size="32x16")
    assert created.status_code == 200
    video = created.json()
    assert (video["object"], video["model"], video["seed"]) == ("video", "fake", 7)
    assert (video["size"], video["num_frames"], video["seconds"]) == ("32x16", 17, "2.125")
    done = wait_for(url, video["id"], "completed")
    assert (done["progress"], done["steps_done"]) == (100, 4)
    assert set(done["stage_durations"]) == {"encode", "denoise", "decode"}
    content = requests.get(f"{url}/v1/videos/{video['id']}/content", timeout=60)
    assert content.headers["content-type"] == "video/mp4"
    assert content.content[4:8] == b"ftyp"


def test_a_form_is_as_good_as_json(url: str) -> None:
    answer = requests.post(
        f"{url}/v1/videos", files={"prompt": (None, "eine rote Kugel, größer"), "seed": (None, "3")}, timeout=60
    )
    assert (answer.status_code, answer.json()["seed"]) == (200, 3)
    assert answer.json()["prompt"] == "eine rote Kugel, größer"
    answer = requests.post(f"{url}/v1/videos", files={"input_reference": ("a.png", b"...")}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input_reference")


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"prompt": ""}, "prompt", "at least 1"),
        ({"prompt": "  "}, "prompt", "blank"),
        ({"prompt": "x" * 5000}, "prompt", "limit here is 4000"),
        ({"model": "other"}, "model", "'fake'"),
        ({"sed": 3}, "sed", "the fields are prompt"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"seed": "many"}, "seed", "valid integer"),
        ({"size": "big"}, "size", "width x height"),
        ({"size": "32x16", "width": 16}, "size", "differ"),
        ({"size": "40x16"}, "width", "use 32 or 48"),
        ({"size": "99984x99984"}, "size", "limit here is"),
        ({"num_frames": 13}, "num_frames", "use 9 or 17"),
        ({"num_frames": 41}, "num_frames", "limit here is 33"),
        ({"seconds": 60}, "num_frames", "limit here is 33"),
        ({"seconds": 1, "num_frames": 9}, "seconds", "one of them"),
        ({"num_inference_steps": 1000}, "num_inference_steps", "limit here is 200"),
    ],
)
def test_bad_fields_are_named(url: str, body: dict[str, Any], param: str, says: str) -> None:
    answer = post(url, **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert says in error["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"", b"\xff"])
def test_a_body_that_is_no_object(url: str, body: bytes) -> None:
    answer = requests.post(f"{url}/v1/videos", data=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_too_large_a_body(url: str) -> None:
    assert requests.post(f"{url}/v1/videos", data=b"x" * (2 << 20), timeout=60).status_code == 413


def test_unknown_videos_and_paths(url: str) -> None:
    for method, path in (("GET", "video_x"), ("DELETE", "video_x"), ("GET", "video_x/content"), ("GET", "..%2f..%2fx")):
        answer = requests.request(method, f"{url}/v1/videos/{path}", timeout=60)
        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "not_found_error"
    assert requests.get(f"{url}/v1/nothing", timeout=60).json()["error"]["type"] == "not_found_error"
    assert requests.put(f"{url}/v1/videos", timeout=60).status_code == 405


def test_queued_running_full_and_cancelled(url: str, engine: FakeEngine, tmp_path: Path) -> None:
    engine.step_s = 60  # until the gate opens
    first, second, third = (post(url, seed=seed).json()["id"] for seed in (1, 2, 3))
    wait_for(url, first, "in_progress")
    assert [requests.get(f"{url}/v1/videos/{i}", timeout=60).json()["queue_position"] for i in (second, third)] == [
        0,
        1,
    ]
    assert requests.get(f"{url}/v1/videos/{first}/content", timeout=60).status_code == 409
    full = post(url)
    assert (full.status_code, full.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(full.headers["retry-after"]) >= 1
    assert requests.get(f"{url}/health", timeout=60).json() == {
        "status": "ok",
        "model": "fake",
        "queued": 2,
        "in_progress": 1,
    }

    deleted = requests.delete(f"{url}/v1/videos/{first}", timeout=60).json()
    assert deleted == {"id": first, "object": "video.deleted", "deleted": True}
    assert requests.delete(f"{url}/v1/videos/{second}", timeout=60).json()["deleted"] is True
    engine.gate.set()
    wait_for(url, third, "completed")
    assert engine.steps.count(1) == 1  # the step that ran when it was deleted, and none after it
    assert engine.steps.count(2) == 0
    assert engine.steps.count(3) == 4
    assert [path.stem for path in tmp_path.iterdir()] == [third]
    listed = requests.get(f"{url}/v1/videos", timeout=60).json()
    assert ([video["id"] for video in listed["data"]], listed["has_more"]) == ([third], False)

    requests.delete(f"{url}/v1/videos/{third}", timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_progress_grows_with_the_steps(url: str, engine: FakeEngine) -> None:
    engine.step_s = 0.05
    video = post(url, num_inference_steps=20).json()
    seen: list[int] = []

    def completed() -> bool:
        now = requests.get(f"{url}/v1/videos/{video['id']}", timeout=60).json()
        seen.append(now["progress"])
        return bool(now["status"] == "completed")

    wait_until(completed)
    assert seen == sorted(seen)
    assert len(set(seen)) > 5


def test_failures_say_why(url: str) -> None:
    long = post(url, prompt="far too long").json()["id"]
    broken = post(url, prompt="broken").json()["id"]
    error = wait_for(url, long, "failed")["error"]
    assert error == {
        "code": "invalid_request",
        "message": "the prompt has 99 text tokens; this model reads 24: shorten it",
    }
    error = wait_for(url, broken, "failed")["error"]
    assert error == {"code": "generation_failed", "message": "encoding the prompt: RuntimeError: no such luck"}
    assert requests.get(f"{url}/v1/videos/{broken}/content", timeout=60).status_code == 409
    assert wait_for(url, post(url).json()["id"], "completed")


def test_a_client_that_leaves_does_not_take_its_video_along(url: str) -> None:
    with requests.Session() as session:
        video = session.post(f"{url}/v1/videos", json={"prompt": "a"}, timeout=60).json()
    time.sleep(0.05)
    assert wait_for(url, video["id"], "completed")


def test_lists_are_paged(url: str) -> None:
    ids = []
    for seed in range(3):
        ids.append(post(url, seed=seed).json()["id"])
        wait_for(url, ids[-1], "completed")
    page = requests.get(f"{url}/v1/videos", params={"limit": 2}, timeout=60).json()
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", ids[2], ids[1], True)
    page = requests.get(f"{url}/v1/videos", params={"after": ids[1]}, timeout=60).json()
    assert [video["id"] for video in page["data"]] == [ids[0]]
    for query, param in (({"limit": 101}, "limit"), ({"order": "up"}, "order"), ({"after": "video_x"}, "after")):
        answer = requests.get(f"{url}/v1/videos", params=query, timeout=60)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_page_is_whole(url: str) -> None:
    answer = requests.get(url, timeout=60)
    assert answer.headers["content-type"].startswith("text/html")
    assert "http://" not in answer.text
    assert "https://" not in answer.text
