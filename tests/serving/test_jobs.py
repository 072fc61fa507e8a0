"""The bookkeeping of videos: states, order, room, estimates."""

from mimir_ray.records import GenerationRequest
from mimir_ray.serving.jobs import Job, JobStore, QueueFull


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def request(steps: int = 4) -> GenerationRequest:
    return GenerationRequest(
        prompt="a", model="m", num_frames=9, height=16, width=16, num_inference_steps=steps, guidance_scale=1.0, fps=8.0
    )


def made(store: JobStore, steps: int = 4) -> Job:
    job = store.create(request(steps))
    assert isinstance(job, Job)
    return job


def test_a_life() -> None:
    clock = Clock()
    store = JobStore(4, now=clock)
    job = made(store)
    assert (store.view(job).status, store.view(job).progress, store.view(job).queue_position) == ("queued", 0, 0)
    assert store.advance(job.id, 0)
    progress = []
    for step in range(1, 5):
        clock.now += 2
        assert store.advance(job.id, step)
        progress.append(store.view(job).progress)
    assert progress == [20, 40, 60, 80]
    store.complete(job.id, "hash", {"encode": 1.0})
    video = store.view(job)
    assert (video.status, video.progress, video.completed_at, video.eta_s) == ("completed", 100, 1008, None)
    assert (video.seconds, video.size, video.stage_durations) == ("1.125", "16x16", {"encode": 1.0})
    assert not store.advance(job.id, 4)


def test_a_late_report_does_not_turn_back_progress() -> None:
    store = JobStore(4)
    job = made(store)
    store.advance(job.id, 0)
    store.advance(job.id, 3)
    store.advance(job.id, 2)
    assert job.steps_done == 3


def test_estimates_follow_the_steps_and_the_queue() -> None:
    clock = Clock()
    store = JobStore(4, now=clock)
    first, second = made(store), made(store, steps=10)
    assert store.view(second).eta_s is None
    store.advance(first.id, 0)
    clock.now += 2
    store.advance(first.id, 1)
    assert store.view(first).eta_s == 6
    assert store.view(second).eta_s == 26
    assert store.view(second).queue_position == 0


def test_replicas_share_what_waits() -> None:
    clock = Clock()
    store = JobStore(4, replicas=2, now=clock)
    first, second, third = made(store), made(store), made(store, steps=10)
    for job in (first, second):
        store.advance(job.id, 0)
    clock.now += 2
    for job in (first, second):
        store.advance(job.id, 1)
    assert store.view(third).eta_s == (6 + 6) / 2 + 20


def test_room_comes_when_the_first_of_them_is_done() -> None:
    clock = Clock()
    store = JobStore(2, now=clock)
    long, short = made(store, steps=10), made(store, steps=4)
    store.advance(long.id, 0)
    clock.now += 2
    store.advance(long.id, 1)
    full = store.create(request())
    assert isinstance(full, QueueFull)
    assert full.retry_after_s == 8
    assert store.view(short).queue_position == 0


def test_room_is_bounded_and_comes_back() -> None:
    store = JobStore(2)
    first, _ = made(store), made(store)
    full = store.create(request())
    assert isinstance(full, QueueFull)
    assert (full.unfinished, full.retry_after_s) == (2, 5)
    store.fail(first.id, "generation_failed", "why")
    made(store)


def test_a_deleted_job_is_not_wanted() -> None:
    store = JobStore(2)
    job = made(store)
    assert store.delete(job.id) is job
    assert not store.advance(job.id, 1)
    assert store.delete(job.id) is None
    store.complete(job.id, "hash", {})


def test_pages() -> None:
    store = JobStore(9)
    ids = [made(store).id for _ in range(5)]
    page = store.page(None, 2, "desc")
    assert page is not None
    assert ([video.id for video in page.data], page.has_more) == ([ids[4], ids[3]], True)
    page = store.page(ids[3], 9, "desc")
    assert page is not None
    assert ([video.id for video in page.data], page.has_more) == ([ids[2], ids[1], ids[0]], False)
    assert (page.first_id, page.last_id) == (ids[2], ids[0])
    page = store.page(None, 1, "asc")
    assert page is not None
    assert page.data[0].id == ids[0]
    page = store.page(ids[2], 2, "desc")
    assert page is not None
    assert ([video.id for video in page.data], page.has_more) == ([ids[1], ids[0]], False)
    assert store.page("video_x", 1, "asc") is None
