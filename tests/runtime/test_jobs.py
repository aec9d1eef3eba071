"""Jobs with real threads. Events drive the timing, never guesses: a step lasts until the test lets it end."""

import gc
import itertools
import threading
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from lumiere.events import Progress, Result
from lumiere.request import Request
from lumiere.runtime import jobs
from lumiere.runtime.jobs import Job

PATIENCE = 120  # s; only a failing test waits that long


def progress(step, steps, share=None) -> Progress:
    preview = partial(np.full, (1, 2, 2, 3), step, np.uint8)
    return Progress(step, steps, step / steps if share is None else share, 0.0, 1, preview)


def ending(steps, done) -> Result:
    return Result(np.zeros((1, 2, 2, 3)), Request("a ball"), steps, done, done < steps, 0.0)


class Work:
    """A run whose steps the test lets through one by one, and that notes who was on the device when."""

    on_device = []

    def __init__(self, steps=4, fails_at=None):
        self.steps, self.fails_at = steps, fails_at
        self.begun, self.closed = threading.Event(), threading.Event()
        self.tickets = threading.Semaphore(0)
        self.thread = None

    def __call__(self, stop):
        self.thread = threading.current_thread()
        Work.on_device.append(self)
        assert len(Work.on_device) == 1, "two jobs on the device"
        self.begun.set()
        done = 0
        try:
            for step in range(1, self.steps + 1):
                if stop.is_set():
                    break
                assert self.tickets.acquire(timeout=PATIENCE)
                if step == self.fails_at:
                    raise RuntimeError("the device broke")
                done = step
                assert threading.current_thread() is self.thread
                yield progress(step, self.steps)
            yield ending(self.steps, done)
        finally:
            assert threading.current_thread() is self.thread, "closed on a foreign thread"
            Work.on_device.remove(self)
            self.closed.set()

    def let(self, steps=1000):
        self.tickets.release(steps)


@pytest.fixture(autouse=True)
def free_device():
    yield
    deadline = time.monotonic() + PATIENCE
    while len(jobs.device) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(jobs.device) == 0, "a job kept the device"
    assert Work.on_device == []


def watch(job) -> list:
    return [update for update in job.updates(0.05) if update is not None]


def until(job, wanted):
    """The first update for which wanted(update) holds."""
    return next(update for update in job.updates(0.05) if update is not None and wanted(update))


def test_a_job_tells_its_steps_and_ends_with_the_result():
    work = Work(steps=3)
    work.let()
    updates = watch(Job(work).start())
    assert updates[-1].ended and updates[-1].result.steps_done == 3
    assert [u.ended for u in updates[:-1]] == [False] * (len(updates) - 1)
    steps = [u.step for u in updates]
    assert steps == sorted(steps)


def test_one_thread_does_all_the_work_and_it_is_not_the_watcher():
    work = Work(steps=3)
    work.let()
    watch(Job(work).start())  # Work asserts that every step ran on one thread
    assert work.thread is not threading.current_thread()


def test_pace_and_time_left():
    work = Work(steps=5)
    job = Job(work).start()
    updates = job.updates(0.05)
    for step in range(1, 4):
        time.sleep(0.05)
        work.let(1)
        update = next(u for u in updates if u is not None and u.step == step)
    assert 0.05 <= update.seconds_per_step < PATIENCE
    assert update.seconds_left == pytest.approx(2 * update.seconds_per_step)
    work.let()
    list(updates)


def test_time_left_follows_the_share_of_the_work(monkeypatch):
    go, clock = threading.Semaphore(0), [0.0]
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def run(stop):
        for step, share in enumerate((0.1, 0.2, 0.6, 1.0), 1):
            assert go.acquire(timeout=PATIENCE)
            yield progress(step, 4, share)

    updates, seen = Job(run).start().updates(0.05), []
    for step, seconds in enumerate((1, 1, 4), 1):
        clock[0] += seconds
        go.release()
        seen.append(next(u for u in updates if u is not None and u.step == step))
    go.release()
    list(updates)
    assert [update.seconds_left for update in seen] == pytest.approx([9, 8, 4])
    assert [update.seconds_per_step for update in seen] == pytest.approx([1, 1, 2])


def test_the_pace_leaves_out_the_loading(monkeypatch):
    watched, clock = threading.Event(), [0.0]
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def run(stop):
        yield "loading"
        clock[0] += 100
        yield "loaded"
        clock[0] += 2
        yield progress(1, 4)
        assert watched.wait(PATIENCE)

    updates = Job(run).start().updates(0.05)
    update = next(u for u in updates if u is not None and u.step == 1)
    watched.set()
    list(updates)
    assert (update.seconds_per_step, update.seconds_left) == (2, 6)


def test_fast_steps_are_merged(monkeypatch):
    monkeypatch.setattr(jobs, "PREVIEW_SECONDS", 0)
    work = Work(steps=30)
    work.let()
    seen = [update for update in Job(work).start().updates(0.5, least=0.2) if update is not None]
    assert len(seen) < 10 and seen[-1].ended and seen[-1].result.steps_done == 30


def test_silence_is_broken_by_heartbeats():
    work = Work()
    job = Job(work).start()
    began = time.monotonic()
    assert list(itertools.islice(job.updates(0.05), 4)) == [None] * 4
    assert 0.15 < time.monotonic() - began < 2
    job.stop()
    work.let()


def test_newest_preview_wins_and_none_waits_in_a_queue(monkeypatch):
    monkeypatch.setattr(jobs, "PREVIEW_SECONDS", 0)
    work = Work(steps=50)
    work.let()
    job = Job(work).start()
    assert job.join(PATIENCE)  # nobody watched: 50 updates went through one slot
    updates = watch(job)
    assert len(updates) == 1 and updates[0].ended
    assert (updates[0].preview == 50).all()


def test_previews_are_rare_but_first_and_last_are_always_there(monkeypatch):
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: 1.0))  # steps take no time
    work = Work(steps=30)
    job = Job(work).start()
    updates, seen = job.updates(0.05), []
    for step in range(1, 31):
        work.let(1)
        update = next(u for u in updates if u is not None and u.step == step)
        seen += [] if update.preview is None else [int(update.preview[0, 0, 0, 0])]
    list(updates)
    assert seen == [1, 30]


def test_an_unseen_preview_is_not_lost_to_an_update_without_one():
    work = Work(steps=3)
    job = Job(work).start()
    work.let(2)
    deadline = time.monotonic() + PATIENCE
    while not (job._slot and job._slot.step == 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    update = until(job, lambda u: True)
    assert update.step == 2 and (update.preview == 1).all()
    work.let()


def test_second_job_waits_until_the_first_worker_really_ended():
    first, second = Work(), Work(steps=1)
    one = Job(first).start()
    assert first.begun.wait(PATIENCE)
    two = Job(second).start()
    assert until_told(two).ahead == 1
    one.stop()  # the stop is asked for in the middle of a step ...
    assert not second.begun.wait(0.3)  # ... which still holds the device
    second.let()
    first.let(1)
    assert watch(two)[-1].result is not None
    assert first.closed.is_set()


def until_told(job):
    """The next update, leaving the job watched by nobody but not abandoned."""
    with job._news:
        assert job._news.wait_for(lambda: job._slot, PATIENCE)
        return job._slot


def test_jobs_are_served_in_order_and_told_their_place():
    works = [Work(steps=1) for _ in range(4)]
    started = [Job(work).start() for work in works]
    assert [until_told(job).ahead for job in started[1:]] == [1, 2, 3]
    for number, (work, job) in enumerate(zip(works, started, strict=True)):
        assert work.begun.wait(PATIENCE)
        assert not any(later.begun.is_set() for later in works[number + 1 :])
        work.let()
        assert job.join(PATIENCE)


def test_stop_keeps_the_partial_clip():
    work = Work(steps=20)
    job = Job(work).start()
    work.let(6)
    updates = job.updates(0.05)
    next(u for u in updates if u is not None and u.step == 6)
    job.stop()
    job.stop()
    work.let(1)  # the step that was running when Stop was pressed
    last = [u for u in updates if u is not None][-1]
    assert last.result.stopped and last.result.steps_done in (6, 7)


def test_stop_while_waiting_ends_without_the_device():
    first, second = Work(), Work()
    Job(first).start()
    assert first.begun.wait(PATIENCE)
    two = Job(second).start()
    two.stop()
    last = watch(two)[-1]
    assert last.ended and last.result is None
    assert not second.begun.is_set() and not first.closed.is_set()
    first.let()


def test_who_stops_a_loading_does_not_wait_for_its_end():
    loaded = threading.Event()

    def load(stop):
        while not loaded.wait(0.01):
            yield "loading"

    job = Job(load).start()
    updates = job.updates()
    assert next(updates).text == "loading"
    job.stop()
    assert list(updates)[-1].ended and len(jobs.device) == 1, "the device is not free before"
    loaded.set()
    assert job.join(PATIENCE) and len(jobs.device) == 0


def test_only_ones_own_jobs_are_stopped():
    mine, theirs, nobodys = Work(), Work(steps=1), Work(steps=1)
    one = Job(mine, owner="me").start()
    two, three = Job(theirs, owner="them").start(), Job(nobodys).start()
    assert jobs.device.stop("someone else") == 0
    assert jobs.device.stop(None) == 0
    assert jobs.device.stop("me") == 1
    mine.let(1), theirs.let(), nobodys.let()
    assert watch(one)[-1].result.stopped
    assert not watch(two)[-1].result.stopped
    assert not watch(three)[-1].result.stopped
    assert jobs.device.stop("me") == 0


def test_exception_reaches_the_watcher_and_frees_the_device():
    work, after = Work(fails_at=2), Work(steps=1)
    work.let(), after.let()
    with pytest.raises(RuntimeError, match="the device broke") as caught:
        watch(Job(work).start())
    assert work.closed.is_set()
    assert watch(Job(after).start())[-1].result.steps_done == 1
    frames = [entry.name for entry in caught.traceback]
    assert "__call__" not in frames  # the failed step's frames, and the tensors in them, are gone


def test_run_that_fails_to_begin_frees_the_device():
    def run(stop):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        watch(Job(run).start())


def test_a_job_whose_thread_cannot_start_leaves_the_queue(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Job(Work()).start()
    assert len(jobs.device) == 0


def test_abandoned_watcher_frees_the_device_within_a_step_and_without_a_clip():
    work = Work(steps=20)
    job = Job(work).start()
    updates = job.updates(0.05)
    work.let(2)
    next(u for u in updates if u is not None and u.step >= 1)
    updates.close()  # what gradio does when a tab is closed
    work.let(1)
    assert job.join(PATIENCE)
    assert work.closed.is_set() and job._slot.result is None


def test_dropped_watcher_counts_as_abandoned():
    work = Work(steps=20)
    job = Job(work).start()
    work.let(1)
    until(job, lambda u: u.step == 1)  # its generator is dropped here
    gc.collect()
    work.let(1)
    assert job.join(PATIENCE)


def test_abandoned_while_waiting():
    first, second = Work(), Work()
    Job(first).start()
    assert first.begun.wait(PATIENCE)
    two = Job(second).start()
    two.abandon()
    assert two.join(PATIENCE) and not second.begun.is_set()
    first.let()


def test_many_jobs_leave_nothing_behind():
    before = threading.active_count()
    for number in range(100):
        work = Work(steps=2, fails_at=2 if number % 3 == 0 else None)
        work.let()
        job = Job(work).start()
        if number % 3 == 1:
            job.abandon()
        try:
            watch(job)
        except RuntimeError:
            pass
        assert job.join(PATIENCE)
    assert threading.active_count() == before


@pytest.fixture(scope="module")
def pipeline(tiny_model):
    from lumiere.pipeline import LumierePipeline

    return LumierePipeline.from_pretrained(tiny_model, device="cpu")


def clip(pipeline, **fields):
    limits = pipeline.limits
    size = {"height": limits.default_height, "width": limits.default_width}
    request = Request("a red ball bouncing", frames=8, **size, **fields)
    return Job(lambda stop: pipeline.generate(request, stop)).start()


def test_real_clip_equals_the_one_made_without_a_job(pipeline):
    updates = watch(clip(pipeline, steps=3, seed=5))
    result = updates[-1].result
    assert any(u.preview is not None for u in updates)
    request = result.request
    *_, direct = pipeline.generate(request)
    assert np.array_equal(result.frames, direct.frames)


def test_real_jobs_side_by_side_equal_their_solo_runs(pipeline):
    started = [clip(pipeline, steps=2, seed=seed) for seed in (1, 2)]
    together = [watch(job)[-1].result.frames for job in started]
    alone = [watch(clip(pipeline, steps=2, seed=seed))[-1].result.frames for seed in (1, 2)]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(*alone)


def test_real_clip_stopped_early_has_frames(pipeline):
    job = clip(pipeline, steps=100, seed=1)
    updates = job.updates(0.05)
    next(u for u in updates if u is not None and u.step >= 2)
    job.stop()
    result = [u for u in updates if u is not None][-1].result
    assert result.stopped and 2 <= result.steps_done < 100 and len(result.frames) == 8


def test_torch_context_of_the_watcher_is_left_alone(pipeline):
    import torch

    job = clip(pipeline, steps=2, seed=1)
    watch(job)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
