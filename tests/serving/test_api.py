"""The videos API over HTTP, with the real graph classes in this process and stages without weights."""

import email
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mimir_ray.serving.config import RequestLimits
from mimir_ray.serving.deployments import video_path
from mimir_ray.storage import content_id, read_bytes, write_bytes
from tests.serving.local_graph import FakeStages, local_server, serving_config, wait_for, wait_until


@pytest.fixture
def stages() -> FakeStages:
    return FakeStages()


@pytest.fixture
def url(stages: FakeStages, tmp_path: Path) -> Iterator[str]:
    config = serving_config(str(tmp_path), max_unfinished=3, limits=RequestLimits(max_frames=33))
    with local_server(config, stages) as address:
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


def form(*parts: str, end: str = "--x--\r\n") -> bytes:
    """A body with the boundary x. A part is its header's options and its value."""
    return "".join(f"--x\r\nContent-Disposition: form-data; {part}\r\n" for part in parts).encode() + end.encode()


def post_form(url: str, body: bytes, kind: str = "multipart/form-data; boundary=x") -> requests.Response:
    return requests.post(f"{url}/v1/videos", data=body, headers={"content-type": kind}, timeout=60)


PROMPT, SEED = 'name="prompt"\r\n\r\na red ball', 'name="seed"\r\n\r\n12'


def test_of_a_repeated_field_the_last_counts(url: str) -> None:
    answer = post_form(url, form(PROMPT, SEED, 'name="seed"\r\n\r\n7'), 'Multipart/Form-Data; boundary="x"')
    assert (answer.status_code, answer.json()["seed"]) == (200, 7)
    answer = post_form(url, b'{"prompt": "a", "seed": 1, "seed": 2}', "application/json")
    assert (answer.status_code, answer.json()["seed"]) == (200, 2)


def test_json_needs_no_content_type_of_its_own(url: str) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain"):  # the first is what `curl -d` says
        assert post_form(url, b'{"prompt": "a", "seed": 5}', kind).json()["seed"] == 5


@pytest.mark.parametrize("name", ["input_reference", "prompt"])
@pytest.mark.parametrize("filename", ["a.png", ""])
def test_a_file_in_a_form_is_refused_by_its_name(url: str, name: str, filename: str) -> None:
    file = f'name="{name}"; filename="{filename}"\r\nContent-Type: image/png\r\n\r\n...'
    answer = post_form(url, form(file, PROMPT))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert f"{name} is a file" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (form(PROMPT, SEED), "multipart/form-data", "boundary"),
        (form(PROMPT, SEED, end="\r\n"), "multipart/form-data; boundary=x", "closing boundary"),
        (form(PROMPT, SEED)[:-8], "multipart/form-data; boundary=x", "closing boundary"),
        (form(PROMPT).replace(b"\r\n", b"\n"), "multipart/form-data; boundary=x", "Invalid multipart"),
        (form("filename=x\r\n\r\n..."), "multipart/form-data; boundary=x", "name"),
        (b"--x--\r\n", "multipart/form-data; boundary=x", "prompt is required"),
        (b"", "multipart/form-data; boundary=x", "closing boundary"),
        (form(*[PROMPT] * 1001), "multipart/form-data; boundary=x", "Too many fields"),
    ],
)
def test_a_form_that_is_none(url: str, body: bytes, kind: str, says: str) -> None:
    answer = post_form(url, body, kind)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert says in error["message"]


@pytest.fixture(params=["disk", "store"])
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Where a finished video is asked for, and its file, on this disk or in an object store; copies must not stay."""
    out = tmp_path / "out" if request.param == "disk" else f"memory://{content_id(str(tmp_path))}"
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    with local_server(serving_config(str(out)), FakeStages()) as url:
        video = post(url).json()["id"]
        wait_for(url, video, "completed")
        yield f"{url}/v1/videos/{video}/content", video_path(str(out), video)
        wait_until(lambda: not list((tmp_path / "copies").iterdir()))


def get(url: str, method: str = "GET", **headers: str) -> requests.Response:
    return requests.request(method, url, headers=headers, timeout=60)


def test_a_video_comes_whole_or_in_ranges(made: tuple[str, str]) -> None:
    url, file = made
    mp4 = read_bytes(file)
    whole, end = get(url), len(mp4) - 1
    assert (whole.status_code, whole.content, whole.headers["accept-ranges"]) == (200, mp4, "bytes")
    assert whole.headers["content-disposition"] == f'inline; filename="{url.split("/")[-2]}.mp4"'
    for asked, first, last in (("0-1", 0, 1), ("5-", 5, end), ("-3", end - 2, end), (f"2-{end + 9}", 2, end)):
        part = get(url, Range=f"bytes={asked}")
        assert (part.status_code, part.content) == (206, mp4[first : last + 1]), asked
        assert part.headers["content-range"] == f"bytes {first}-{last}/{len(mp4)}"
        assert (part.headers["content-type"], part.headers["content-length"]) == ("video/mp4", str(last + 1 - first))


def test_several_ranges_come_in_parts(made: tuple[str, str]) -> None:
    url, file = made
    mp4 = read_bytes(file)
    answer = get(url, Range="bytes=4-7, 0-1,6-9")
    assert answer.status_code == 206
    message = email.message_from_bytes(f"Content-Type: {answer.headers['content-type']}\n\n".encode() + answer.content)
    parts = [(part["content-range"], part.get_payload(decode=True)) for part in message.walk() if part["content-range"]]
    assert parts == [(f"bytes 0-1/{len(mp4)}", mp4[:2]), (f"bytes 4-9/{len(mp4)}", mp4[4:10])], "overlaps are joined"
    many = get(url, Range="bytes=" + ",".join(f"{at}-{at}" for at in range(0, 400, 2)))
    assert (many.status_code, many.content) == (200, mp4)


def test_ranges_that_are_none(made: tuple[str, str]) -> None:
    url, file = made
    length = len(read_bytes(file))
    for asked in (f"bytes={length}-", "bytes=99999999-999999999", "bytes=-0"):
        beyond = get(url, Range=asked)
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{length}"), asked
    for asked in ("bytes", "bytes=", "bytes=a-b", "bytes=7-3", "bytes=-", "seconds=0-1"):
        assert get(url, Range=asked).status_code == 400, asked


def test_a_download_goes_on_only_with_the_same_file(made: tuple[str, str]) -> None:
    url, _ = made
    first, second = get(url, Range="bytes=0-9"), get(url)
    assert first.headers["etag"] == second.headers["etag"]
    assert "last-modified" in second.headers
    for tag, status in ((first.headers["etag"], 206), ('"another"', 200), ("W/" + first.headers["etag"], 200)):
        assert get(url, **{"Range": "bytes=10-", "If-Range": tag}).status_code == status


def test_head_says_what_get_would(made: tuple[str, str]) -> None:
    url, _ = made
    head, whole = get(url, "HEAD"), get(url)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag", "accept-ranges", "content-disposition"):
        assert head.headers[name] == whole.headers[name]
    assert get(url.replace("video_", "no_"), "HEAD").status_code == 404


@pytest.mark.parametrize("variant", ["thumbnail", "spritesheet", "", "Video"])
def test_what_is_not_made_is_no_video(url: str, variant: str) -> None:
    video = post(url).json()["id"]
    wait_for(url, video, "completed")
    content = f"{url}/v1/videos/{video}/content"
    answer = requests.get(content, params={"variant": variant}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "variant")
    assert (
        answer.json()["error"]["message"]
        == f"variant is {variant!r}; this server has the video alone: leave variant out"
    )
    assert requests.get(content, params={"variant": "video"}, timeout=60).content[4:8] == b"ftyp"


def test_a_file_that_is_gone_is_said(url: str, tmp_path: Path) -> None:
    video = post(url).json()["id"]
    wait_for(url, video, "completed")
    (tmp_path / f"{video}.mp4").unlink()
    answer = requests.get(f"{url}/v1/videos/{video}/content", timeout=60)
    assert (answer.status_code, "is gone" in answer.json()["error"]["message"]) == (404, True)


def test_a_client_that_leaves_in_the_middle_leaves_no_copy(made: tuple[str, str]) -> None:
    url, file = made
    write_bytes(file, bytes(64 << 20))  # more than the sockets hold
    with requests.get(url, stream=True, timeout=60) as answer:
        assert len(next(answer.iter_content(1000))) == 1000  # the fixture waits until the copy is removed


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


def test_a_request_may_ask_for_as_much_as_the_limits_say(url: str) -> None:
    limits = RequestLimits()
    whole = {"num_frames": 33, "num_inference_steps": limits.max_inference_steps, "width": 1360, "height": 768}
    answer = post(url, prompt="x" * limits.max_prompt_characters, **whole)
    assert answer.status_code == 200, answer.text
    assert requests.delete(f"{url}/v1/videos/{answer.json()['id']}", timeout=60).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b"", b"\xff"])
def test_a_body_that_is_no_object(url: str, body: bytes) -> None:
    answer = requests.post(f"{url}/v1/videos", data=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_too_large_a_body(url: str, kind: str) -> None:
    for data in (b"x" * (2 << 20), iter([b"x" * (1 << 16)] * 20)):  # the second says no length
        answer = requests.post(f"{url}/v1/videos", data=data, headers={"content-type": kind}, timeout=60)
        assert (answer.status_code, "larger than 1048576 bytes" in answer.text) == (413, True)


def test_a_form_may_be_as_large_as_any_body(url: str) -> None:
    about = len(form(PROMPT, 'name="x"\r\n\r\n'))
    answer = post_form(url, form(PROMPT, 'name="x"\r\n\r\n' + "x" * ((1 << 20) - about)))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x")


def test_unknown_videos_and_paths(url: str) -> None:
    for method, path in (("GET", "video_x"), ("DELETE", "video_x"), ("GET", "video_x/content"), ("GET", "..%2f..%2fx")):
        answer = requests.request(method, f"{url}/v1/videos/{path}", timeout=60)
        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "not_found_error"
    assert requests.get(f"{url}/v1/nothing", timeout=60).json()["error"]["type"] == "not_found_error"
    assert requests.put(f"{url}/v1/videos", timeout=60).status_code == 405


def test_queued_running_full_and_cancelled(url: str, stages: FakeStages, tmp_path: Path) -> None:
    stages.step_s = 60  # until the gate opens
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
    stages.gate.set()
    wait_for(url, third, "completed")
    assert stages.steps.count(1) == 1  # the step that ran when it was deleted, and none after it
    assert stages.steps.count(2) == 0
    assert stages.steps.count(3) == 4
    assert [path.stem for path in tmp_path.iterdir()] == [third]
    listed = requests.get(f"{url}/v1/videos", timeout=60).json()
    assert ([video["id"] for video in listed["data"]], listed["has_more"]) == ([third], False)

    requests.delete(f"{url}/v1/videos/{third}", timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_progress_grows_with_the_steps(url: str, stages: FakeStages) -> None:
    stages.step_s = 0.05
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
